import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { HempFileError, inspect, load } from "../hemp.js";

const DATA = join(import.meta.dirname, "../../../tests/data");
const RESULTS = join(import.meta.dirname, "../../../benchmarks/results");

const BROKEN = ["version1_deflated", "version1_tuples", "version2_fast", "version3_metadata"];
BROKEN.push("version3_transform", "version3_frequency");

for (const name of BROKEN) {
  test(`every flipped bit of ${name} is refused`, () => {
    const bytes = readFileSync(join(DATA, `${name}.hemp`));
    load(bytes);
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      const broken = Uint8Array.from(bytes);
      broken[bit >> 3] ^= 1 << (bit & 7);
      assert.throws(() => load(broken), HempFileError, `bit ${bit}`);
    }
  });
}

test("every cut file and every longer one is refused", () => {
  const bytes = readFileSync(join(DATA, "version2_steps.hemp"));
  for (let size = 0; size < bytes.length; size++) {
    assert.throws(() => load(bytes.subarray(0, size)), HempFileError, `${size} bytes`);
  }
  assert.throws(() => load(Buffer.concat([bytes, Buffer.alloc(1)])), HempFileError);
});

test("an error says where, what was expected and what was found", () => {
  const bytes = Uint8Array.from(readFileSync(join(DATA, "version1_raw.hemp")));
  bytes[4] = 9;
  assert.throws(() => load(bytes), (error) => {
    assert.deepEqual([error.name, error.offset, error.found], ["HempFileError", 4, "version 9"]);
    assert.match(error.message, /^byte 4: expected a format version from 1 to \d, found version 9$/);
    return true;
  });
});

test("tensors above maxBytes are refused before memory is taken", () => {
  const bytes = readFileSync(join(DATA, "version1_lenet.hemp"));
  const needed = [...load(bytes).values()].reduce((sum, { data }) => sum + data.byteLength, 0);
  assert.equal(load(bytes, { maxBytes: needed }).size, 7);
  assert.throws(() => load(bytes, { maxBytes: needed - 1 }), /maxBytes/);
});

test("an ArrayBuffer, a view into one and a Buffer are the same file; anything else is a TypeError", () => {
  const bytes = readFileSync(join(DATA, "version1_raw.hemp"));
  const buffer = new ArrayBuffer(bytes.length + 3);
  const view = new Uint8Array(buffer, 3);
  view.set(bytes);
  assert.deepEqual(load(view), load(bytes));
  assert.deepEqual(load(view.slice().buffer), load(bytes));
  assert.throws(() => load("model.hemp"), TypeError);
});

test("inspect reads the directory and the metadata alone", () => {
  const { version, metadata } = inspect(readFileSync(join(DATA, "version3_metadata.hemp")));
  assert.equal(version, 3);
  assert.ok(metadata.size > 0);
  const { fileBytes, tensors } = inspect(readFileSync(join(RESULTS, "lenet5_mnist/model.hemp")));
  assert.ok(fileBytes < 1200);
  assert.deepEqual(tensors[0].shape, [20, 1, 5, 5]);
  assert.ok(tensors.some(({ coder, levels }) => coder === "context" && levels > 2));
});

test("tied tensors are one object", () => {
  const tied = readdirSync(DATA).filter((name) => name.endsWith(".hemp")).flatMap((name) => {
    const bytes = readFileSync(join(DATA, name));
    const tensors = load(bytes);
    return inspect(bytes).tensors.filter(({ kind }) => kind === "alias").map((alias) => [tensors, alias]);
  });
  assert.ok(tied.length > 0);
  for (const [tensors, { name, sameAs }] of tied) assert.equal(tensors.get(name), tensors.get(sameAs));
});
