// Files with their expected tensors, in the folder HEMP_CASES: cases.json and the files that it names.
// tests/reader_js/test_hemp_js.py writes such a folder from what the Python package reads.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { HempFileError, inspect, load } from "../hemp.js";

const folder = process.env.HEMP_CASES;
const cases = folder ? JSON.parse(readFileSync(join(folder, "cases.json"))) : [];

test("the folder of cases", { skip: folder ? false : "HEMP_CASES is not set" }, () => assert.ok(cases.length > 0));

for (const { name, file, base: basePath, tensors, refused, maxBytes } of cases) {
  test(name, () => {
    const bytes = readFileSync(file);
    const base = basePath && readFileSync(basePath);
    if (refused) {
      assert.throws(() => load(bytes, { maxBytes, base }), HempFileError);
      return;
    }
    const expected = readFileSync(join(folder, `${name}.bin`));
    const found = load(bytes, { maxBytes, base });
    assert.deepEqual([...found.keys()], tensors.map((tensor) => tensor.name));
    const listed = base ? [] : inspect(bytes).tensors; // of an update only what changed
    let at = 0;
    tensors.forEach(({ name: key, shape, dtype, size }, i) => {
      const { data, ...rest } = found.get(key);
      assert.deepEqual(rest, { shape, dtype }, key);
      if (!base) assert.deepEqual([listed[i].name, listed[i].shape, listed[i].dtype], [key, shape, dtype]);
      const mine = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
      assert.ok(mine.equals(expected.subarray(at, at + size)), `${key} differs`);
      at += size;
    });
    assert.equal(at, expected.length);
  });
}
