/**
 * Reads `.hemp` files in a browser or in Node: one module, no dependencies, written after FORMAT.md.
 *
 *     import { load } from "./hemp.js";
 *     const file = await (await fetch("model.hemp")).arrayBuffer();
 *     const { shape, dtype, data } = load(file).get("conv1.weight");
 *
 * `load` gives every tensor as a typed array, in the order of the file. `inspect` says what is in a file without
 * decoding it. A file that is not whole and valid is a `HempFileError` with the byte where it stops being so.
 *
 * Numbers are exact throughout: integers below 2^53 are plain numbers, `Math.floor(a / b)` is then FORMAT.md's
 * `a // b`, and the few wider ones (int64 entries, tuples of many levels) are BigInt outside of the inner loops.
 */

const MAX_VERSION = 4;
const MAX_DIRECTORY = 2 ** 26;
const MAX_TENSORS = 2 ** 17;
const MAX_LEVELS = 65536;

/** A file that is not a whole, valid `.hemp` file: `offset` is the byte at which it stops being one. */
export class HempFileError extends Error {
  constructor(offset, expected, found) {
    super(`byte ${offset}: expected ${expected}, found ${found}`);
    this.name = "HempFileError";
    this.offset = offset;
    this.expected = expected;
    this.found = found;
  }
}

/**
 * Decode a file.
 *
 * @param {ArrayBuffer|Uint8Array} file All bytes of the file.
 * @param {{maxBytes?: number, base?: ArrayBuffer|Uint8Array}} [options] `maxBytes`: most bytes that the tensors may
 *     take together, as typed arrays; by default 256 MiB and 4,096 times the size of the file. `base`: all bytes of
 *     the file that an update updates; with another file it is not used.
 * @returns {Map<string, {shape: number[], dtype: string, data: object}>} In the order of the file. `data` is a typed
 *     array in row-major order. float16, bfloat16 and float8 are Float32Array with the same values; int64 is
 *     BigInt64Array; bool is Uint8Array with 0 and 1; complex numbers are pairs of real and imaginary part. Tied
 *     tensors are one object under two names.
 * @throws {HempFileError} If the file is not whole and valid, its tensors need more than `maxBytes`, or it is an update
 *     without its base.
 */
export function load(file, { maxBytes, base } = {}) {
  const bytes = asBytes(file);
  const limit = maxBytes ?? 2 ** 28 + 4096 * bytes.length;
  const opened = open(bytes, limit);
  const records = opened.update ? updated(bytes, opened, base, limit) : opened.records;
  if (!opened.update) for (const section of opened.sections) decodeSection(bytes, section);
  const tensors = new Map();
  for (const { name, shape, dtype, data, alias } of records) {
    const tied = alias === undefined ? undefined : tensors.get(records[alias].name);
    tensors.set(name, tied ?? { shape, dtype, data });
  }
  return tensors;
}

/**
 * Say what is in a file, from its directory; all checksums are checked, nothing is decoded.
 *
 * @param {ArrayBuffer|Uint8Array} file All bytes of the file.
 * @returns {{version: number, fileBytes: number, metadata: Map<string, string>, base: string|null, tensors: object[]}}
 *     `base`: of an update the digest of its base, else null. One object for each tensor of the file itself: `name`,
 *     `shape`, `dtype`, `kind` ("quantized", "plain" or "alias"), and what a tensor of that kind has: `levels`,
 *     `coder`, `payloadBytes`, `transform`, `storage`, `sameAs`.
 * @throws {HempFileError} If the header, the directory or a checksum is wrong.
 */
export function inspect(file) {
  const bytes = asBytes(file);
  const { version, metadata, records, update } = open(bytes, Infinity);
  const tensors = records.map((record) => {
    const { name, shape, dtype, kind } = record;
    if (kind === "alias") return { name, shape, dtype, kind, sameAs: records[record.alias].name };
    if (kind === "plain") return { name, shape, dtype, kind, storage: record.storage };
    const { levels, payloadBytes, transform } = record;
    const coder = levels > 1 ? CODERS[record.coder] : "constant";
    return { name, shape, dtype, kind, levels, coder, payloadBytes, transform };
  });
  return { version, fileBytes: bytes.length, metadata, base: update && hexOf(update.digest), tensors };
}

function asBytes(file) {
  if (file instanceof ArrayBuffer) return new Uint8Array(file);
  if (ArrayBuffer.isView(file)) return new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
  throw new TypeError("`file` must be an ArrayBuffer or a typed array; fetch(...) gives one by arrayBuffer()");
}

// ------------------------------------------------------------------------------------------------------------------
// Bytes and bits

/** A place in some bytes. `shift` is what an offset lacks to be one of the file; `inside` names unpacked bytes. */
class Cursor {
  constructor(bytes, at, end, shift = 0, inside = "") {
    Object.assign(this, { bytes, at, end, shift, inside });
  }

  /** An error here, or at another offset of the same bytes. */
  error(expected, found, at = this.at) {
    const where = this.inside ? ` at byte ${at} of ${this.inside}` : "";
    return new HempFileError(this.inside ? this.shift : at + this.shift, expected + where, String(found));
  }

  get left() {
    return this.end - this.at;
  }

  byte(what) {
    if (this.at >= this.end) throw this.error(what, "the end");
    return this.bytes[this.at++];
  }

  /** The next `count` bytes, as a view. */
  take(count, what) {
    if (count > this.left) throw this.error(`${count} bytes of ${what}`, `${this.left} bytes`);
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  /** A part of these bytes with a cursor of its own; this one goes on behind it. */
  part(count, what) {
    const start = this.at;
    this.take(count, what);
    return new Cursor(this.bytes, start, start + count, this.shift, this.inside);
  }

  /** A varint of at most `limit`. Above 2^53 the number is inexact, and above every limit. */
  varint(what, limit) {
    const start = this.at;
    let value = 0;
    for (let place = 0; ; place += 7) {
      const byte = this.byte(what);
      value += (byte & 127) * 2 ** place;
      if (byte < 128) {
        if (byte === 0 && place > 0) throw this.error(`the shortest varint for ${what}`, "a longer one", start);
        break;
      }
      if (place >= 56) throw this.error(`a varint below 2^62 for ${what}`, "more bytes", start);
    }
    if (value > limit) throw this.error(`${what} of at most ${limit}`, value, start);
    return value;
  }

  done(what) {
    if (this.at !== this.end) throw this.error(`the end of ${what}`, `${this.left} more bytes`);
  }
}

/** Bits from a cursor's place on, the least significant bit of each byte first. */
class Bits {
  constructor(cursor) {
    this.cursor = cursor;
    this.bit = 0; // of the byte at the cursor
  }

  get left() {
    return this.cursor.left * 8 - this.bit;
  }

  next(what) {
    const { cursor } = this;
    if (cursor.at >= cursor.end) throw cursor.error(what, "the end");
    const value = (cursor.bytes[cursor.at] >> this.bit) & 1;
    if (++this.bit === 8) {
      this.bit = 0;
      cursor.at++;
    }
    return value;
  }

  /** A number of up to 53 bits. */
  number(count, what) {
    let value = 0;
    for (let got = 0; got < count; ) {
      const { cursor } = this;
      if (cursor.at >= cursor.end) throw cursor.error(what, "the end");
      const some = Math.min(8 - this.bit, count - got);
      value += ((cursor.bytes[cursor.at] >> this.bit) & ((1 << some) - 1)) * 2 ** got;
      got += some;
      this.bit += some;
      if (this.bit === 8) {
        this.bit = 0;
        cursor.at++;
      }
    }
    return value;
  }

  /** `count` numbers in exponential Golomb codes; those that may not be below 2^53 are BigInt. */
  golomb(k, count, what) {
    if (count > this.left) throw this.cursor.error(`${count} codes of ${what}`, `${this.left} bits`);
    const sizes = new Uint8Array(count);
    for (let i = 0; i < count; i++) {
      while (this.next(what) === 0) {
        if (++sizes[i] + k > 61) throw this.cursor.error(`${what} of at most 61 bits`, "more zero bits");
      }
    }
    return Array.from(sizes, (c) => {
      if (c + k <= 52) {
        const low = this.number(k, what);
        return (2 ** c + this.number(c, what) - 1) * 2 ** k + low;
      }
      const low = this.wide(k, what);
      return (((1n << BigInt(c)) + this.wide(c, what) - 1n) << BigInt(k)) + low;
    });
  }

  wide(count, what) {
    const low = this.number(Math.min(count, 32), what);
    return BigInt(low) + (BigInt(this.number(Math.max(count - 32, 0), what)) << 32n);
  }

  /** The rest of the byte, which is zero. */
  finish(what) {
    const { cursor } = this;
    if (this.bit === 0) return;
    if (cursor.bytes[cursor.at] >> this.bit) throw cursor.error(`zero bits behind ${what}`, "a one");
    this.bit = 0;
    cursor.at++;
  }
}

/** A byte k, `count` codes with it and the rest of the byte, each a number with a sign, folded; as differences. */
function foldedDifferences(cursor, count, what) {
  const k = cursor.byte(what);
  if (k > 61) throw cursor.error(`k of at most 61 for ${what}`, k, cursor.at - 1);
  const start = cursor.at;
  const bits = new Bits(cursor);
  const values = bits.golomb(k, count, what);
  bits.finish(what);
  let sum = 0;
  return values.map((folded) => {
    if (folded > 2 ** 33) throw cursor.error(`${what} of at most 2^32 either way`, "more", start);
    sum += unfold(Number(folded));
    if (Math.abs(sum) > 2 ** 32) throw cursor.error(`${what} of at most 2^32 either way`, sum, start);
    return sum;
  });
}

/** The number with a sign behind `fold`. */
function unfold(folded) {
  return folded % 2 ? -(folded + 1) / 2 : folded / 2;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte >>> 0;
});

function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function uint32(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

function hex(number) {
  return `0x${number.toString(16).padStart(8, "0")}`;
}

// ------------------------------------------------------------------------------------------------------------------
// The file and its directory

/** Storages of FORMAT.md, by number: the dtype, the bytes of a word, and how words become a typed array. */
const STORAGES = [
  ["float32", 4, Float32Array],
  ["float32", 2, Float32Array, float32OfFloat16],
  ["float16", 2, Float32Array, float32OfFloat16],
  ["bfloat16", 2, Float32Array, float32OfBfloat16],
  ["float64", 8, Float64Array],
  ["int8", 1, Int8Array],
  ["int16", 2, Int16Array],
  ["int32", 4, Int32Array],
  ["int64", 8, BigInt64Array],
  ["uint8", 1, Uint8Array],
  ["bool", 1, Uint8Array],
  ["complex64", 4, Float32Array],
  ["complex128", 8, Float64Array],
  ["complex32", 2, Float32Array, float32OfFloat16],
  ["uint16", 2, Uint16Array],
  ["uint32", 4, Uint32Array],
  ["uint64", 8, BigUint64Array],
  ["float8_e4m3fn", 1, Float32Array, float32OfE4m3],
  ["float8_e5m2", 1, Float32Array, (byte) => float32OfFloat16(byte << 8)],
  ["float32", 2, Float32Array, float32OfBfloat16],
  ["float32", 4, Float32Array],
].map(([dtype, wordBytes, array, convert]) => {
  const parts = dtype.startsWith("complex") ? 2 : 1; // words of an entry
  return { dtype, wordBytes, array, convert, parts };
});
const BFLOAT16 = 3;
const INTEGERS = [5, 6, 7, 8, 9, 14, 15, 16];
const BOOL = 10;
const STEPS = 20;
const QUANTIZED = [0, 2, 3, 4]; // storages of quantized tensors

const CODERS = ["raw", "tuples", "context", "lzma", "bz2", "zlib", "fast", "frequency"];

const WORDS = (
  ".weight .bias .running_mean .running_var .num_batches_tracked conv .conv layer .bn features. classifier " +
  ".downsample. shortcut linear fc norm attn self_attn mlp layers. blocks. block encoder decoder embed " +
  "proj in_proj_weight in_proj_bias network. model. head"
).split(" ");

/** Check everything outside of the sections' content. */
function open(bytes, maxBytes) {
  if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) throw new Error("this reader needs little-endian arrays");
  const cursor = new Cursor(bytes, 0, bytes.length);
  const magic = cursor.take(4, "the magic number");
  if (String.fromCharCode(...magic) !== "HEMP") throw cursor.error('"HEMP"', `bytes ${magic.join(" ")}`, 0);
  const version = cursor.byte("the version");
  if (version < 1 || version > MAX_VERSION) {
    throw cursor.error(`a format version from 1 to ${MAX_VERSION}`, `version ${version}`, 4);
  }
  const flags = cursor.byte("the flags");
  if (flags > 1) throw cursor.error("flags 0 or 1", flags, 5);
  const size = uint32(cursor.take(4, "the size of the directory"), 0);
  if (size > MAX_DIRECTORY) throw cursor.error(`a directory of at most ${MAX_DIRECTORY} bytes`, size, 6);
  const checksum = uint32(cursor.take(4, "a checksum"), 0);
  const stored = cursor.part(size, "the directory");
  const computed = crc32(bytes.subarray(14, 14 + size), crc32(bytes.subarray(0, 10)));
  if (computed !== checksum) throw cursor.error(`checksum ${hex(computed)}`, hex(checksum), 10);

  const plain = flags ? deflatedDirectory(stored) : stored;
  const directory = readDirectory(plain, version, maxBytes);
  for (const section of directory.sections) {
    section.start = cursor.at;
    const content = cursor.take(section.size, "a section");
    const wanted = uint32(cursor.take(4, "the checksum of a section"), 0);
    const crc = crc32(content);
    if (crc !== wanted) throw cursor.error(`checksum ${hex(crc)} of the section`, hex(wanted), cursor.at - 4);
  }
  cursor.done("the file");
  return { version, ...directory };
}

function deflatedDirectory(stored) {
  const most = Math.min(MAX_DIRECTORY, 32 * stored.left);
  const size = stored.varint("the plain size of the directory", most);
  const plain = inflate(stored, size);
  return new Cursor(plain, 0, plain.length, 14, "the plain directory");
}

function readDirectory(cursor, version, maxBytes) {
  const count = cursor.varint("the number of tensors", MAX_TENSORS);
  const records = [];
  const sections = [];
  const names = { short: new Uint8Array(0), seen: new Set(), bytes: 0 };
  let memory = 0;
  for (let i = 0; i < count; i++) {
    const start = cursor.at;
    const record = { name: readName(cursor, names) };
    readRecord(cursor, record, records, version);
    records.push(record);
    if (record.alias !== undefined) continue;
    if (record.first) sections.push({ records: [] });
    if (sections.length === 0) throw cursor.error("the first tensor to begin a section", "none", start);
    sections[sections.length - 1].records.push(record);
    memory += bytesInMemory(record);
    if (memory > maxBytes) throw cursor.error(`tensors of at most maxBytes = ${maxBytes} bytes`, memory, start);
  }
  for (const section of sections) section.size = cursor.varint("the size of a section", 2 ** 53);
  const metadata = version >= 3 ? readMetadata(cursor) : new Map();
  const update = version >= 4 ? readUpdate(cursor, records) : null;
  cursor.done("the directory");
  return { records, sections, metadata, update };
}

/** A name: its short form begins as the one before; common words are one byte of it. */
function readName(cursor, names) {
  const start = cursor.at;
  const byte = cursor.byte("a name");
  let shared = byte >> 4;
  let further = byte & 15;
  if (shared === 15) shared += cursor.varint("the shared bytes of a name", 2 ** 24);
  if (further === 15) further += cursor.varint("the bytes of a name", 2 ** 24);
  if (shared > names.short.length) {
    throw cursor.error(`at most ${names.short.length} bytes shared with the name before`, shared, start);
  }
  const short = new Uint8Array(shared + further);
  short.set(names.short.subarray(0, shared));
  short.set(cursor.take(further, "a name"), shared);
  const full = [];
  for (let i = 0; i < short.length; i++) {
    if (short[i] >= 32) full.push(short[i]);
    else if (short[i] > 0) for (const letter of WORDS[short[i] - 1]) full.push(letter.charCodeAt(0));
    else if (++i < short.length && short[i] < 32) full.push(short[i]);
    else throw cursor.error("a byte below 32 behind a byte 0 in a name", short[i] ?? "the end", start);
    if (full.length > 4096) throw cursor.error("a name of at most 4096 bytes", "a longer one", start);
  }
  names.bytes += full.length + short.length;
  if (names.bytes > 2 ** 24) throw cursor.error("names of at most 2^24 bytes together", names.bytes, start);
  const name = utf8(cursor, new Uint8Array(full), start);
  if (names.seen.has(name)) throw cursor.error("names that differ", `${JSON.stringify(name)} twice`, start);
  names.seen.add(name);
  names.short = short;
  return name;
}

function utf8(cursor, bytes, start) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw cursor.error("UTF-8", `bytes ${bytes.subarray(0, 8).join(" ")} ...`, start);
  }
}

function readRecord(cursor, record, records, version) {
  const start = cursor.at;
  const tag = cursor.byte("a tag");
  const kind = tag & 3;
  if (kind === 2) {
    if (tag !== 2) throw cursor.error("tag 2 of an alias", tag, start);
    const alias = cursor.varint("the position of a tensor", records.length - 1);
    const { shape, dtype, alias: other } = records[alias];
    if (other !== undefined) throw cursor.error("a tensor that is no alias", `an alias at ${alias}`, start);
    Object.assign(record, { kind: "alias", alias, shape, dtype });
    return;
  }
  if (kind === 3 && version < 3) throw cursor.error("no transform in a file before version 3", "one", start);
  const quantized = kind !== 1;
  const usual = quantized ? 0 : 1;
  record.kind = quantized ? "quantized" : "plain";
  record.first = (tag & 64) !== 0;
  record.wide = (tag & 128) !== 0;
  if (record.wide && !quantized) throw cursor.error("wide levels in a quantized tensor only", "a plain one", start);
  record.storage = tag & 32 ? cursor.byte("a storage") : usual;
  if (tag & 32 && record.storage === usual) throw cursor.error("another storage than the usual", usual, start + 1);
  const allowed = quantized ? QUANTIZED.includes(record.storage) : record.storage < STORAGES.length;
  if (!allowed) throw cursor.error(`a storage of a ${record.kind} tensor`, record.storage, start + 1);
  if (record.storage === STEPS && version < 2) throw cursor.error("no storage 20 in version 1", "one", start + 1);
  readShape(cursor, record, (tag >> 2) & 7);
  record.dtype = STORAGES[record.storage].dtype;
  if (quantized) readQuantized(cursor, record, kind === 3, version);
}

function readShape(cursor, record, axes) {
  if (axes === 7) axes += cursor.varint("the axes above 7", 25);
  record.shape = [];
  let product = 1;
  for (let i = 0; i < axes; i++) {
    const start = cursor.at;
    const extent = cursor.varint("an extent", 2 ** 36);
    record.shape.push(extent);
    product *= Math.max(extent, 1);
    if (product >= 2 ** 36) throw cursor.error("fewer than 2^36 entries", product, start);
  }
  record.entries = record.shape.includes(0) ? 0 : product;
}

function readQuantized(cursor, record, transformed, version) {
  const start = cursor.at;
  if (record.entries === 0) throw cursor.error("no empty axis of a quantized tensor", `shape ${record.shape}`, start);
  if (transformed) {
    const number = cursor.byte("a transform");
    if (number !== 1) throw cursor.error("transform 1", number, start);
    const [axes, kernel] = [record.shape.length, record.shape.slice(2)];
    const places = kernel.reduce((product, extent) => product * extent, 1);
    if (axes < 3 || axes > 5 || Math.max(...kernel) > 64 || places < 2 || places > 1024) {
      throw cursor.error("a shape that transform 1 takes", `shape ${record.shape}`, start);
    }
    record.transform = "dct";
  }
  const at = cursor.at;
  record.levels = cursor.varint("the number of levels", Math.min(MAX_LEVELS, record.entries));
  if (record.levels === 0) throw cursor.error("one level or more", "none", at);
  record.payloadBytes = 0;
  if (record.levels === 1) return;
  record.coder = cursor.byte("a coder");
  if (record.coder >= CODERS.length) {
    throw cursor.error(`a coder from 0 to ${CODERS.length - 1}`, `coder ${record.coder}`, cursor.at - 1);
  }
  const first = record.coder < 6 ? 1 : record.coder === 6 ? 2 : 3; // version that has it
  if (version < first) throw cursor.error(`a coder of version ${version}`, `coder ${record.coder}`, cursor.at - 1);
  record.payloadBytes = cursor.varint("the size of a payload", 2 ** 53);
}

function readMetadata(cursor) {
  const count = cursor.varint("the number of metadata", 4096);
  const metadata = new Map();
  let total = 0;
  for (let i = 0; i < count; i++) {
    const start = cursor.at;
    const [name, text] = ["a name of metadata", "metadata"].map((what) => {
      const size = cursor.varint(`the bytes of ${what}`, 2 ** 20 - total);
      total += size;
      return utf8(cursor, cursor.take(size, what), start);
    });
    if (metadata.has(name)) throw cursor.error("metadata that differ in name", JSON.stringify(name), start);
    metadata.set(name, text);
  }
  return metadata;
}

// ------------------------------------------------------------------------------------------------------------------
// Updates: files that say how they differ from another one, the base

const [WHOLE, IN_PLACE, IN_ORDER, FOLDED] = [0, 1, 2, 3]; // relations of a record to the base

function readUpdate(cursor, records) {
  const start = cursor.at;
  const flag = cursor.byte("whether the file is an update");
  if (flag > 1) throw cursor.error("0 or 1 for an update", flag, start);
  if (flag === 0) return null;
  const digest = cursor.take(32, "the digest of the base");
  for (const record of records) {
    record.relation = cursor.byte("a relation");
    if (record.relation > FOLDED) throw cursor.error("a relation from 0 to 3", record.relation, cursor.at - 1);
    if (record.alias !== undefined) throw cursor.error("no alias in an update", record.name, start);
  }
  const error = (expected, found) => cursor.error(expected, found, start);
  return { digest, error };
}

/** All records of the file that an update makes of its base, decoded. */
function updated(bytes, { records, sections, update }, base, maxBytes) {
  const wanted = hexOf(update.digest);
  if (base === undefined) throw update.error(`\`base\`, the file with the digest ${wanted}, for an update`, "none");
  const baseBytes = asBytes(base);
  const before = open(baseBytes, maxBytes);
  if (before.update) throw update.error("a whole file as `base`", "an update");
  for (const section of before.sections) decodeSection(baseBytes, section, true);
  const found = hexOf(digestOf(before.records));
  if (found !== wanted) throw update.error(`as \`base\` the file with the digest ${wanted}`, `one with ${found}`);

  const held = new Map(before.records.map((record) => [record.name, record]));
  for (const record of records) {
    record.before = held.get(record.name);
    checkRelation(record, update);
  }
  const changed = new Map(records.map((record) => [record.name, record]));
  const all = before.records.map((record) => changed.get(record.name) ?? record);
  const memory = all.reduce((sum, record) => sum + bytesInMemory(record), 0);
  if (memory > maxBytes) throw update.error(`tensors of at most maxBytes = ${maxBytes} bytes`, memory);
  for (const section of sections) decodeSection(bytes, section);
  for (const record of records) if (record.relation === FOLDED) unfoldWords(record);
  for (const record of all) {
    if (record.alias === undefined) continue;
    const { shape, dtype } = all[record.alias];
    Object.assign(record, { shape, dtype });
  }
  return all;
}

function bytesInMemory({ alias, storage, entries }) {
  if (alias !== undefined) return 0;
  const { array, parts } = STORAGES[storage];
  return entries * parts * array.BYTES_PER_ELEMENT;
}

function checkRelation({ name, kind, shape, storage, transform, relation, before }, update) {
  if (before === undefined || before.alias !== undefined) {
    throw update.error("the name of a tensor of the base", JSON.stringify(name));
  }
  if (relation === WHOLE) return;
  let fits = String(shape) === String(before.shape) && before.kind === kind;
  if (relation === FOLDED) {
    const [mine, other] = [STORAGES[storage], STORAGES[before.storage]];
    fits &&= kind === "plain" && mine.dtype.startsWith("uint") && mine.wordBytes === other.wordBytes;
    fits &&= other.parts === 1 && before.storage !== BOOL && before.storage !== STEPS;
  } else fits &&= kind === "quantized" && storage === before.storage && transform === before.transform;
  if (!fits) throw update.error(`differences to ${JSON.stringify(name)} of the base`, "those to another tensor");
}

/** Indices from their differences to those that the base lets expect. */
function withExpected({ before, entries, levels: count, relation }, levels, differences) {
  if (count === 1) return differences;
  const nearest = Uint16Array.from(before.values, (old) => {
    let best = 0;
    for (let low = 0, high = count; low < high; ) { // the last level at or below the old one
      const middle = (low + high) >> 1;
      if (levels[middle] <= old) [best, low] = [middle, middle + 1];
      else high = middle;
    }
    return best + 1 < count && levels[best + 1] - old < old - levels[best] ? best + 1 : best;
  });
  const expected = (i) => nearest[before.levels === 1 ? 0 : before.indices[i]];
  const next = new Uint32Array(count); // where the next difference stands of each expected index
  if (relation === IN_ORDER) {
    for (let i = 0; i < entries; i++) if (expected(i) + 1 < count) next[expected(i) + 1]++;
    for (let i = 1; i < count; i++) next[i] += next[i - 1];
  }
  const indices = new Uint16Array(entries);
  for (let i = 0; i < entries; i++) {
    const index = expected(i);
    const difference = differences[relation === IN_ORDER ? next[index]++ : i];
    indices[i] = (difference + index + count - (count >> 1)) % count;
  }
  return indices;
}

/** Put words together from those of the base and their folded differences. */
function unfoldWords(record) {
  const { array: unsigned, wordBytes } = STORAGES[record.storage];
  const storage = STORAGES[record.before.storage];
  Object.assign(record, { storage: record.before.storage, dtype: storage.dtype });
  if (record.entries === 0) {
    record.data = new storage.array(0);
    return;
  }
  const differences = new unsigned(record.words.slice().buffer);
  const words = new unsigned(record.before.words.slice().buffer);
  for (let i = 0; i < words.length; i++) {
    const v = differences[i]; // arrays of unsigned integers wrap by themselves
    if (wordBytes === 8) words[i] += v & 1n ? -((v + 1n) >> 1n) : v >> 1n;
    else words[i] += v % 2 ? -(v + 1) / 2 : v / 2;
  }
  record.data = new storage.array(record.entries);
  fillFromWords(record.data, new Uint8Array(words.buffer), storage);
}

/** SHA-256 of what a file holds, however it is coded. */
function digestOf(records) {
  const sha = new Sha256();
  const varint = (number) => {
    for (; number >= 128; number = Math.floor(number / 128)) sha.add([(number % 128) + 128]);
    sha.add([number]);
  };
  for (const record of records) {
    const name = new TextEncoder().encode(record.name);
    varint(name.length);
    sha.add(name);
    sha.add([["quantized", "plain", "alias"].indexOf(record.kind)]);
    if (record.alias !== undefined) {
      varint(record.alias);
      continue;
    }
    sha.add([record.storage]);
    varint(record.shape.length);
    record.shape.forEach(varint);
    if (record.kind === "plain") {
      sha.add(record.words ?? []);
      continue;
    }
    sha.add([record.transform ? 1 : 0]);
    varint(record.levels);
    sha.add(new Uint8Array(record.values.buffer));
    if (record.levels === 1) sha.add(new Uint8Array(record.entries));
    else sha.add(record.levels <= 256 ? Uint8Array.from(record.indices) : new Uint8Array(record.indices.buffer));
  }
  return sha.digest();
}

function hexOf(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The first 32 bits of the fractions of the roots of the first primes, as SHA-256 has them. */
function rootsOfPrimes(count, root) {
  const primes = [];
  for (let number = 2; primes.length < count; number++) {
    if (primes.every((prime) => number % prime)) primes.push(number);
  }
  return Uint32Array.from(primes, (prime) => (root(prime) % 1) * 2 ** 32);
}

const SHA_START = rootsOfPrimes(8, Math.sqrt);
const SHA_ROUNDS = rootsOfPrimes(64, Math.cbrt);

/** SHA-256 (FIPS 180-4); that of browsers is asynchronous. */
class Sha256 {
  constructor() {
    this.state = SHA_START.slice();
    this.block = new Uint8Array(64);
    this.filled = 0;
    this.total = 0;
    this.schedule = new Uint32Array(64);
  }

  add(bytes) {
    this.total += bytes.length;
    for (let i = 0; i < bytes.length; i++) {
      this.block[this.filled++] = bytes[i];
      if (this.filled === 64) this.mix();
    }
  }

  digest() {
    const bits = 8 * this.total;
    this.add([128]);
    while (this.filled !== 56) this.add([0]);
    this.add(Array.from({ length: 8 }, (_, i) => Math.floor(bits / 2 ** (56 - 8 * i)) % 256));
    return Uint8Array.from({ length: 32 }, (_, i) => this.state[i >> 2] >>> (24 - 8 * (i % 4)));
  }

  mix() {
    const { block, schedule: w, state } = this;
    const turn = (x, n) => (x >>> n) | (x << (32 - n));
    for (let i = 0; i < 16; i++) {
      w[i] = (block[4 * i] << 24) | (block[4 * i + 1] << 16) | (block[4 * i + 2] << 8) | block[4 * i + 3];
    }
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15], w[i - 2]];
      w[i] = w[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const first = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + SHA_ROUNDS[i] + w[i];
      const second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
    this.filled = 0;
  }
}

// ------------------------------------------------------------------------------------------------------------------
// A section: levels, payloads, blocks

/** Decode a section; with `keep`, each record also keeps its levels and indices, or its words. */
function decodeSection(bytes, { start, size, records }, keep = false) {
  const cursor = new Cursor(bytes, start, start + size);
  const quantized = records.filter((record) => record.kind === "quantized");
  const levels = readLevels(cursor, quantized);
  quantized.forEach((record, i) => {
    const payload = cursor.part(record.payloadBytes, "a payload");
    const shape = record.relation === IN_ORDER ? [record.entries] : record.shape;
    let indices = decodeIndices(record.coder, payload, shape, record.levels);
    const differs = record.relation === IN_PLACE || record.relation === IN_ORDER;
    if (differs) indices = withExpected(record, levels[i], indices);
    if (keep) Object.assign(record, { values: levels[i], indices });
    record.data = record.transform
      ? fromCosines(record, levels[i], indices)
      : fromLevels(record, levels[i], indices);
  });
  const plain = records.filter((record) => record.kind === "plain");
  for (const record of plain) {
    const { array, parts } = STORAGES[record.storage];
    record.data = new array(record.entries * parts);
  }
  const filled = plain.filter((record) => record.entries > 0);
  for (const storage of new Set(filled.map((record) => record.storage))) {
    const same = filled.filter((record) => record.storage === storage);
    if (storage === STEPS) readSteps(cursor, same);
    else readBlock(cursor, same, STORAGES[storage], storage, keep || same.some(({ relation }) => relation === FOLDED));
    if (storage === STEPS && keep) for (const record of same) record.words = new Uint8Array(record.data.buffer);
  }
  cursor.done("a section");
}

/** Levels of each tensor, as numbers. */
function readLevels(cursor, quantized) {
  const levels = quantized.map((record) => new Float32Array(record.levels));
  const narrow = levels.filter((_, i) => !quantized[i].wide);
  if (narrow.length > 0) {
    const [byte, start] = [cursor.byte("the levels"), cursor.at];
    const bits = new Bits(cursor);
    const total = narrow.reduce((sum, array) => sum + array.length, 0);
    const values = bits.golomb(byte & 15, total, "the levels");
    bits.finish("the levels");
    const unit = 2 ** (byte >> 4);
    let at = 0;
    for (const array of narrow) {
      let ordinal = 0;
      for (let i = 0; i < array.length; i++, at++) {
        const value = Number(values[at]);
        ordinal = i === 0 ? unfold(value) * unit : ordinal + (value + 1) * unit;
        if (Math.abs(ordinal) > 31743) throw cursor.error("ordinals of at most 31743 either way", ordinal, start);
        array[i] = float32OfFloat16(ordinal < 0 ? 0x8000 - ordinal : ordinal);
      }
    }
  }
  quantized.forEach((record, i) => {
    if (!record.wide) return;
    const start = cursor.at;
    const words = cursor.take(4 * record.levels, "wide levels");
    new Uint8Array(levels[i].buffer).set(words);
    if (!levels[i].every(Number.isFinite)) throw cursor.error("finite levels", "another one", start);
    for (let j = 1; j < record.levels; j++) {
      if (!(levels[i][j - 1] < levels[i][j])) throw cursor.error("ascending levels", levels[i][j], start + 4 * j);
    }
  });
  quantized.forEach((record, i) => {
    if (record.transform && levels[i].some((level) => Math.abs(level) > 2 ** 96)) {
      throw cursor.error("levels of at most 2^96 for a transform", "more");
    }
  });
  return levels;
}

/** float32 numbers in the dtype of a tensor: rounded to what it holds, to nearest, ties to even. */
function roundTo(storage, numbers) {
  if (storage === 2) return numbers.map((number) => float32OfFloat16(float16OfFloat32(number)));
  if (storage === BFLOAT16) return numbers.map(roundToBfloat16);
  return storage === 4 ? Float64Array.from(numbers) : numbers;
}

function fromLevels(record, levels, indices) {
  const rounded = roundTo(record.storage, levels);
  const data = new STORAGES[record.storage].array(record.entries);
  if (record.levels === 1) return data.fill(rounded[0]);
  for (let i = 0; i < data.length; i++) data[i] = rounded[indices[i]];
  return data;
}

/** T(k, n) of FORMAT.md: exact multiples of 2^-30; entry k * extent + n. */
function cosines(extent) {
  const table = new Float64Array(extent * extent);
  for (let k = 0; k < extent; k++) {
    const scale = 2 ** 30 * Math.sqrt((k === 0 ? 1 : 2) / extent);
    for (let n = 0; n < extent; n++) {
      let turn = ((2 * n + 1) * k) % (4 * extent); // of 4 * extent for the full circle, which keeps angles small
      if (turn > 2 * extent) turn = 4 * extent - turn;
      const sign = turn > extent ? -1 : 1;
      if (sign < 0) turn = 2 * extent - turn;
      table[k * extent + n] = (sign * Math.round(scale * Math.cos((Math.PI * turn) / (2 * extent)))) / 2 ** 30;
    }
  }
  return table;
}

/** Weights from coefficients of cosines, axis after axis of the kernel, in 64-bit floats in FORMAT.md's order. */
function fromCosines(record, levels, indices) {
  const kernel = record.shape.slice(2);
  const places = kernel.reduce((product, extent) => product * extent, 1);
  const data = new Float32Array(record.entries);
  let now = new Float64Array(places);
  let next = new Float64Array(places);
  const tables = kernel.map(cosines);
  for (let start = 0; start < record.entries; start += places) {
    for (let i = 0; i < places; i++) now[i] = levels[record.levels === 1 ? 0 : indices[start + i]];
    let stride = places;
    kernel.forEach((extent, axis) => {
      stride /= extent;
      const table = tables[axis];
      for (let base = 0; base < places; base += stride * extent) {
        for (let inner = base; inner < base + stride; inner++) {
          for (let n = 0; n < extent; n++) {
            let sum = table[n] * now[inner];
            for (let k = 1; k < extent; k++) sum += table[k * extent + n] * now[inner + k * stride];
            next[inner + n * stride] = sum;
          }
        }
      }
      [now, next] = [next, now];
    });
    data.set(now, start); // rounds to float32
  }
  return roundTo(record.storage, data);
}

/** The entries of all plain tensors of one storage in a section. */
function readBlock(cursor, records, { wordBytes, array, parts }, storage, keep) {
  const count = records.reduce((sum, record) => sum + record.entries * parts, 0);
  const start = cursor.at;
  const method = cursor.byte("the method of a block");
  let words; // all bytes, words little-endian
  if (method === 0) words = cursor.take(count * wordBytes, "a block");
  else if (method === 1) words = readPlanes(cursor, count, wordBytes);
  else if (method === 2 && INTEGERS.includes(storage) && count <= 2 ** 16) {
    words = readDifferences(cursor, count, wordBytes, array);
  } else throw cursor.error("a method of its block", `method ${method}, storage ${storage}, ${count} words`, start);
  if (storage === BOOL && words.some((word) => word > 1)) throw cursor.error("0 or 1 for a bool", "more", start);
  let at = 0;
  for (const record of records) {
    const mine = words.subarray(at, at + record.data.length * wordBytes);
    at += mine.length;
    if (keep) record.words = mine;
    fillFromWords(record.data, mine, STORAGES[storage]);
  }
}

/** Entries from their words, little-endian. */
function fillFromWords(data, words, { wordBytes, convert }) {
  if (!convert) new Uint8Array(data.buffer).set(words);
  else if (wordBytes === 1) for (let i = 0; i < data.length; i++) data[i] = convert(words[i]);
  else for (let i = 0; i < data.length; i++) data[i] = convert(words[2 * i] | (words[2 * i + 1] << 8));
}

function readPlanes(cursor, count, wordBytes) {
  const words = new Uint8Array(count * wordBytes);
  for (let plane = 0; plane < wordBytes; plane++) {
    const start = cursor.at;
    const coder = cursor.byte("the coder of a plane");
    if (coder > 2) throw cursor.error("coder 0, 1 or 2 of a plane", coder, start);
    let values;
    if (coder === 0) values = cursor.take(count, "a plane");
    else {
      const size = cursor.varint("the size of a plane", cursor.left);
      values = decodeIndices(coder, cursor.part(size, "a plane"), [count], 256);
    }
    for (let i = 0; i < count; i++) words[i * wordBytes + plane] = values[i];
  }
  return words;
}

function readDifferences(cursor, count, wordBytes, array) {
  const start = cursor.at;
  const k = cursor.byte("differences");
  if (k > 61) throw cursor.error("k of at most 61", k, start);
  const bits = new Bits(cursor);
  const values = bits.golomb(k, count, "differences");
  bits.finish("differences");
  const words = new array(count);
  let sum = 0n;
  for (let i = 0; i < count; i++) {
    const folded = BigInt(values[i]);
    sum += folded & 1n ? -((folded + 1n) >> 1n) : folded >> 1n;
    words[i] = wordBytes === 8 ? sum : Number(sum);
    if (BigInt(words[i]) !== sum) throw cursor.error("words in the range of their dtype", sum, start);
  }
  return new Uint8Array(words.buffer);
}

/** A block of steps: entries on the whole numbers of each tensor's own scale. */
function readSteps(cursor, records) {
  const start = cursor.at;
  const bits = new Bits(cursor);
  const forms = records.map(() => bits.next("the forms of steps"));
  bits.finish("the forms of steps");
  const scales = records.map(() => ({}));
  for (const form of [0, 1]) {
    const same = scales.filter((_, i) => forms[i] === form);
    if (same.length === 0) continue;
    for (const name of ["exponent", "centre"]) {
      const values = foldedDifferences(cursor, same.length, `the ${name}s of steps`);
      same.forEach((scale, i) => (scale[name] = values[i]));
    }
  }
  const down = cursor.varint("the steps below a centre", 65535);
  const levels = cursor.varint("the levels of steps", MAX_LEVELS - 1) + 1;
  const size = cursor.varint("the size of steps", cursor.left);
  const count = records.reduce((sum, record) => sum + record.entries, 0);
  const indices = decodeIndices(2, cursor.part(size, "steps"), [count], levels);
  let at = 0;
  records.forEach(({ data }, tensor) => {
    const { exponent, centre } = scales[tensor];
    const digits = forms[tensor] === 1;
    const [low, high] = digits ? [0, 23] : [-149, 104];
    if (exponent < low || exponent > high) {
      throw cursor.error(`exponents from ${low} to ${high}`, exponent, start);
    }
    const words = new Uint32Array(data.buffer);
    for (let i = 0; i < data.length; i++) {
      const whole = centre + (levels === 1 ? 0 : indices[at + i]) - down;
      if (digits ? whole <= 0 : Math.abs(whole) >= 2 ** 24) throw cursor.error("steps in range", whole, start);
      if (!digits) data[i] = whole * 2 ** exponent;
      else if (whole * 2 ** exponent < 0x7f800000) words[i] = whole * 2 ** exponent;
      else throw cursor.error("finite entries", whole, start);
      if (!Number.isFinite(data[i])) throw cursor.error("finite entries", data[i], start);
    }
    at += data.length;
  });
}

// ------------------------------------------------------------------------------------------------------------------
// Floats of few bits

const FLOAT = new Float32Array(1);
const WORD = new Uint32Array(FLOAT.buffer);

function float32OfWord(word) {
  WORD[0] = word;
  return FLOAT[0];
}

function float32OfFloat16(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const digits = half & 1023;
  if (exponent === 31 && digits) return float32OfWord(((half & 0x8000) << 16) | 0x7fc00000 | (digits << 13));
  if (exponent === 31) return sign * Infinity;
  return exponent === 0 ? sign * digits * 2 ** -24 : sign * (1024 + digits) * 2 ** (exponent - 25);
}

function float32OfBfloat16(half) {
  return float32OfWord(half << 16);
}

function float32OfE4m3(byte) {
  const sign = byte & 128 ? -1 : 1;
  const exponent = (byte >> 3) & 15;
  const digits = byte & 7;
  if ((byte & 127) === 127) return NaN;
  return exponent === 0 ? sign * digits * 2 ** -9 : sign * (8 + digits) * 2 ** (exponent - 10);
}

/** The nearest float16, as its bits. */
function float16OfFloat32(number) {
  FLOAT[0] = number;
  const sign = (WORD[0] >>> 16) & 0x8000;
  const size = Math.abs(FLOAT[0]);
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | roundHalfEven(size * 2 ** 24);
  const exponent = ((WORD[0] >>> 23) & 255) - 127;
  return sign | (roundHalfEven(size * 2 ** (10 - exponent)) + ((exponent + 14) << 10));
}

function roundToBfloat16(number) {
  FLOAT[0] = number;
  const word = WORD[0];
  return float32OfWord((word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000);
}

function roundHalfEven(number) {
  const below = Math.floor(number);
  const rest = number - below;
  return below + (rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? 1 : 0);
}

// ------------------------------------------------------------------------------------------------------------------
// Payloads

/** Indices of a tensor in row-major order. With one level, or without entries, a payload is empty. */
function decodeIndices(coder, cursor, shape, levels) {
  const count = shape.reduce((product, extent) => product * extent, 1);
  const indices = new Uint16Array(levels === 1 ? 0 : count);
  if (levels > 1 && count > 0) DECODERS[coder](cursor, shape, levels, indices);
  cursor.done("a payload");
  return indices;
}

const DECODERS = [
  decodeRaw,
  decodeTuples,
  (cursor, shape, levels, indices) => decodeContext(cursor, shape, levels, indices, 2),
  (cursor, _, levels, indices) => decodePlain(unlzma2, cursor, levels, indices),
  (cursor, _, levels, indices) => decodePlain(unbz2, cursor, levels, indices),
  (cursor, _, levels, indices) => decodePlain(inflate, cursor, levels, indices),
  (cursor, shape, levels, indices) => decodeContext(cursor, shape, levels, indices, 6),
  (cursor, shape, levels, indices) => decodeContext(cursor, shape, levels, indices, 7),
];

function bitsOf(number) {
  return number === 0 ? 0 : Math.floor(Math.log2(number)) + 1;
}

function decodeRaw(cursor, _, levels, indices) {
  const width = bitsOf(levels - 1);
  const bits = new Bits(cursor);
  for (let i = 0; i < indices.length; i++) {
    indices[i] = bits.number(width, "indices");
    if (indices[i] >= levels) throw cursor.error(`indices below ${levels}`, indices[i]);
  }
  bits.finish("indices");
}

/** Coders 3 to 5: a general compressor over one or two bytes for each index. */
function decodePlain(decompress, cursor, levels, indices) {
  const start = cursor.at;
  const width = levels <= 256 ? 1 : 2;
  const plain = decompress(cursor, indices.length * width);
  for (let i = 0; i < indices.length; i++) {
    indices[i] = width === 1 ? plain[i] : plain[2 * i] | (plain[2 * i + 1] << 8);
    if (indices[i] >= levels) throw cursor.error(`indices below ${levels}`, indices[i], start);
  }
}

/**
 * The axes of a tensor in the order of a scan, and where its entries stand in row-major order.
 *
 * @returns {{extents: number[], strides: number[]}}
 */
function scanned(shape, scan) {
  const axes = shape.map((_, axis) => axis);
  const [first, second, ...kernel] = axes;
  const scans = [axes, [second, first, ...kernel], [first, ...kernel, second], [second, ...kernel, first]];
  const order = axes.length < 2 ? axes : scans[scan];
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, extent) => product * extent, 1));
  return { extents: order.map((axis) => shape[axis]), strides: order.map((axis) => strides[axis]) };
}

/** Put entries that were decoded in the order of a scan where they stand in row-major order. */
function unscan(values, shape, scan, into) {
  const { extents, strides } = scanned(shape, scan);
  const place = new Array(extents.length).fill(0);
  let target = 0;
  for (let i = 0; i < values.length; i++) {
    into[target] = values[i];
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      target += strides[axis];
      if (++place[axis] < extents[axis]) break;
      target -= strides[axis] * extents[axis];
      place[axis] = 0;
    }
  }
}

// ------------------------------------------------------------------------------------------------------------------
// Coder 1: tuples, an asymmetric numeral system with 64 bits of state

function decodeTuples(cursor, shape, levels, indices) {
  const start = cursor.at;
  const head = cursor.varint("the length of tuples", 4 * 62);
  const scan = head % 4;
  const length = (head - scan) / 4 + 1;
  const cells = BigInt(levels) ** BigInt(length);
  if (cells > 1n << 62n) throw cursor.error("tuples of at most 2^62 kinds", `${levels}^${length}`, start);
  const tuples = Math.floor(indices.length / length);
  const rest = indices.length - tuples * length;

  const bits = new Bits(cursor);
  const values = new Uint16Array(indices.length); // in the order of the scan
  for (let i = values.length - rest; i < values.length; i++) {
    values[i] = bits.number(bitsOf(levels - 1), "the indices behind the tuples");
    if (values[i] >= levels) throw cursor.error(`indices below ${levels}`, values[i]);
  }
  bits.finish("the indices behind the tuples");

  if (tuples > 0) {
    const table = readTable(cursor, cells, tuples, true);
    const single = table.escape ? readTable(cursor, BigInt(levels), tuples * length, false) : null;
    const code = new Ans(cursor);
    const spelled = spell(table, levels, length);
    const escaped = [];
    for (let tuple = 0; tuple < tuples; tuple++) {
      const symbol = code.next(table);
      if (table.escape && symbol === 0) escaped.push(tuple);
      else values.set(spelled.subarray(symbol * length, (symbol + 1) * length), tuple * length);
    }
    for (const tuple of escaped) {
      for (let i = tuple * length; i < (tuple + 1) * length; i++) values[i] = Number(single.cells[code.next(single)]);
    }
    code.finish();
  }
  unscan(values, shape, scan, indices);
}

/** The indices of every symbol's tuple, one after the other. */
function spell(table, levels, length) {
  const spelled = new Uint16Array(table.cells.length * length);
  const base = BigInt(levels);
  table.cells.forEach((cell, symbol) => {
    for (let i = length - 1; i >= 0; i--) {
      spelled[symbol * length + i] = Number(cell % base);
      cell /= base;
    }
  });
  return spelled;
}

/**
 * A table of cells with their weights.
 *
 * @returns {{escape: boolean, cells: bigint[], ends: Uint32Array}} With an escape, symbol 0 is that and its cell 0n
 *     stands for none; `ends` are the sums of the weights up to each symbol.
 */
function readTable(cursor, cells, counted, mayEscape) {
  const start = cursor.at;
  const most = Math.min(65535, counted, Number(cells));
  const listed = cursor.varint("the number of listed cells", most);
  const byte = cursor.byte("a table");
  const bits = new Bits(cursor);
  const gaps = bits.golomb(byte & 31, listed, "the cells of a table");
  const codes = bits.golomb(byte >> 5, listed + 1, "the counts of a table");
  bits.finish("a table");

  const escape = codes[0] > 0;
  if (escape && !mayEscape) throw cursor.error("no escape in the table of levels", "one", start);
  const middles = codes.map((code, i) => middle(cursor, Number(code) + (i > 0 ? 1 : 0), start));
  const symbols = [];
  if (escape) symbols.push(0n);
  else middles.shift();
  let cell = -1n;
  for (const gap of gaps) {
    cell += BigInt(gap) + 1n;
    if (cell >= cells) throw cursor.error(`cells below ${cells}`, cell, start);
    symbols.push(cell);
  }
  if (symbols.length === 0) throw cursor.error("a table with symbols", "none", start);
  return { escape, cells: symbols, ends: weights(middles) };
}

/** The middle of the range of counts that a count code stands for. */
function middle(cursor, code, start) {
  if (code === 0) return 0;
  let before = 1;
  for (let digits = 1; digits <= 36; digits++) {
    const kept = Math.floor(Math.max(digits - 3, 0) / 2);
    const codes = 2 ** kept;
    if (code < before + codes) {
      const dropped = digits - 1 - kept;
      return (codes + code - before) * 2 ** dropped + (dropped > 0 ? 2 ** (dropped - 1) : 0);
    }
    before += codes;
  }
  throw cursor.error("counts of at most 36 binary digits", `code ${code}`, start);
}

/** Sums of the weights, which sum to 2^24, from the middles. */
function weights(middles) {
  const share = BigInt(2 ** 24 - middles.length);
  const sum = BigInt(middles.reduce((total, count) => total + count, 0));
  const found = middles.map((count) => 1 + Number((BigInt(count) * share) / sum));
  let largest = 0;
  middles.forEach((count, i) => (largest = count > middles[largest] ? i : largest));
  found[largest] += 2 ** 24 - found.reduce((total, weight) => total + weight, 0);
  let end = 0;
  return Uint32Array.from(found, (weight) => (end += weight));
}

/** The state in two halves of 32 bits, so that no step needs more than 53. */
class Ans {
  constructor(cursor) {
    this.cursor = cursor;
    const payload = cursor.take(cursor.left, "a code");
    if (payload.length > 0 && payload[payload.length - 1] === 0) {
      throw cursor.error("a code that ends in another byte than 0", "0", cursor.at - 1);
    }
    this.words = new Uint8Array(Math.ceil(payload.length / 4) * 4);
    this.words.set(payload);
    this.top = this.words.length;
    this.high = 0;
    this.low = 0;
    this.refill();
    this.refill();
  }

  refill() {
    if (this.high > 0 || this.top === 0) return;
    this.top -= 4;
    this.high = this.low;
    this.low = uint32(this.words, this.top);
  }

  next({ ends }) {
    if (ends.length === 1) return 0;
    const rest = this.low & 0xffffff;
    let symbol = 0; // the first whose end is above the rest
    for (let size = ends.length; size > 0; ) {
      const half = size >> 1;
      if (ends[symbol + half] <= rest) {
        symbol += half + 1;
        size -= half + 1;
      } else size = half;
    }
    const begin = symbol > 0 ? ends[symbol - 1] : 0;
    const weight = ends[symbol] - begin;
    // (state >> 24) * weight + rest - begin, with state >> 24 as upper * 2^24 + lower
    const shifted = this.high * 256 + (this.low >>> 24);
    const upper = Math.floor(shifted / 2 ** 24) * weight;
    const lower = (shifted % 2 ** 24) * weight + rest - begin + (upper % 256) * 2 ** 24;
    this.low = lower % 2 ** 32;
    this.high = Math.floor(upper / 256) + Math.floor(lower / 2 ** 32);
    this.refill();
    return symbol;
  }

  finish() {
    if (this.high > 0 || this.low > 0 || this.top > 0) {
      throw this.cursor.error("a code that ends in state 0", "another");
    }
  }
}

// ------------------------------------------------------------------------------------------------------------------
// Coders 2, 6 and 7: context, fast and frequency

/** The range decoder; its numbers are below 2^48. */
class RangeDecoder {
  constructor(cursor) {
    this.cursor = cursor;
    this.range = 2 ** 48;
    this.code = 0;
    this.read = cursor.at; // where the next byte is, at the end or behind it
    for (let i = 0; i < 6; i++) this.code = this.code * 256 + this.nextByte();
  }

  nextByte() {
    const { cursor } = this;
    return this.read < cursor.end ? cursor.bytes[this.read++] : (this.read++, 0);
  }

  decide(one) {
    const zero = Math.floor(this.range / 65536) * (65536 - one);
    let bit = 0;
    if (this.code >= zero) {
      bit = 1;
      this.code -= zero;
      this.range -= zero;
    } else this.range = zero;
    while (this.range < 2 ** 40) {
      this.range *= 256;
      this.code = this.code * 256 + this.nextByte();
    }
    return bit;
  }

  uniform(size) {
    let low = 0;
    let high = size;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.decide(Math.floor((65536 * (high - middle)) / (high - low)))) low = middle;
      else high = middle;
    }
    return low;
  }

  finish() {
    const { cursor } = this;
    if (this.read < cursor.end) {
      throw cursor.error("the end of a payload", `${cursor.end - this.read} more bytes`, this.read);
    }
    if (cursor.left > 0 && cursor.bytes[cursor.end - 1] === 0) {
      throw cursor.error("a payload that ends in another byte than 0", "0", cursor.end - 1);
    }
    cursor.at = cursor.end;
  }
}

function clamp(low, number, high) {
  return number < low ? low : number > high ? high : number;
}

/** Counters: probabilities of a 1 in 22 bits, and how often each was used; a count of 0 marks a new one. */
class Counters {
  constructor(size, most) {
    this.chance = new Int32Array(size).fill(2 ** 21);
    this.count = new Int32Array(size);
    this.most = most;
  }

  learn(i, bit) {
    const count = this.count[i] || 1;
    const step = Math.floor(131072 / (2 * count + 3));
    this.chance[i] += Math.floor((((bit ? 4194303 : 0) - this.chance[i]) * step) / 65536);
    this.count[i] = count < this.most ? count + 1 : count;
  }

  /** A decision by a lone counter. */
  decide(decoder, i) {
    const bit = decoder.decide(clamp(1, this.chance[i] >> 6, 65535));
    this.learn(i, bit);
    return bit;
  }
}

const SQUASH = new Int32Array(2 * 3071 + 1); // of x at 3071 + x
const STRETCH = new Int32Array(65536);
const FIRST_WEIGHTS = [
  [0, 18000, 9000, 14000, 5000, 9000, 19000, 8000],
  [0, 0, 0, 32000, 13000, 25000, 6000, 0],
  [3000, 13000, 10000, 14000, 5000, 10000, 9000, 7000],
];
/** The same of coder 7. */
const FREQUENCY_WEIGHTS = [
  [-17000, 17000, 10000, -1000, 4000, 11000, 32000, 20000],
  [-3000, -2000, -4000, 26000, 6000, 28000, 7000, 2000],
  [-3000, 8000, 16000, 9000, 3000, 15000, 10000, 6000],
];

for (let x = 0; x <= 3071; x++) { // only that of 0 is nearer than 8 * 10^-5 to a whole number: doubles suffice
  const value = Math.min(Math.floor(65536 / (1 + Math.exp(-x / 256))), 65535);
  SQUASH[3071 + x] = value;
  SQUASH[3071 - x] = 65536 - value;
}
for (let p = 0, x = -3071; p < 65536; p++) {
  while (x < 3071 && SQUASH[3071 + x + 1] <= p) x++;
  STRETCH[p] = x;
}

/** What a payload says before its differences. */
function readOptions(decoder, shape, levels) {
  const decide = () => decoder.decide(8192);
  if (decide()) return { plain: true };
  const options = { half: decide(), scan: 0, shift: 0, flags: 0, binary: 0 };
  options.centre = levels >> 1;
  if (!options.half && decide()) options.centre = decoder.uniform(levels);
  options.below = options.centre;
  options.above = options.half ? levels - options.centre : levels - 1 - options.centre;
  options.binary = Math.max(options.below, options.above) > 40 ? 1 : decide();
  if (!options.half) options.flags = decide();
  if (shape.length >= 2) options.scan = 2 * decide() + decide();
  while (options.shift < 15 && decoder.decide(24576)) options.shift++;
  return options;
}

function decodeContext(cursor, shape, levels, indices, coder) {
  const decoder = new RangeDecoder(cursor);
  const options = readOptions(decoder, shape, levels);
  if (options.plain) {
    for (let i = 0; i < indices.length; i++) indices[i] = decoder.uniform(levels);
    decoder.finish();
    return;
  }
  if (coder === 6 && options.flags) throw cursor.error("no flags in a payload of coder 6", "flags");
  const { extents } = scanned(shape, options.scan);
  const lone = extents.length < 2;
  const layout = { rows: lone ? 1 : extents[0], mid: lone ? indices.length : extents[1], inner: 1, last: 1 };
  for (const extent of extents.slice(2)) [layout.inner, layout.last] = [layout.inner * extent, extent];

  const numbers = new Int32Array(indices.length); // differences, in the order of the scan
  const Model = coder === 6 ? FastModel : Mixer;
  const model = new Model(decoder, options, layout, numbers, coder === 7 && layout.inner > 1);
  decodeDifferences(decoder, options, layout, numbers, model);
  decoder.finish();

  const { centre, half } = options;
  for (let i = 0; i < numbers.length; i++) numbers[i] += half && numbers[i] > 0 ? centre - 1 : centre;
  unscan(numbers, shape, options.scan, indices);
}

function decodeDifferences(decoder, options, { rows, mid, inner }, numbers, model) {
  const { half, flags, binary, below, above } = options;
  const row = mid * inner;
  const digits = bitsOf(Math.max(below, above) - 1); // the least with 2^digits >= the larger
  const rowFlags = new Counters(2, 1020);
  const later = new Counters(1024, 1020); // of binary digits behind the first ones
  let empty = 0;
  for (let start = 0; start < rows * row; start += row) {
    if (flags) {
      empty = rowFlags.decide(decoder, empty);
      if (empty) continue;
    }
    for (let number = start; number < start + row; number++) {
      model.look(number);
      if (!half && !model.decide(0, false)) continue;
      const negative = below > 0 && above > 0 ? model.decideSign() : below > 0 ? 1 : 0;
      const limit = negative ? below : above;
      let size = 1;
      if (!binary) while (size < limit && model.decide(2 * size + negative, size > 1)) size++;
      else {
        for (let lower = digits - 1; lower >= 0; lower--) {
          let digit = 0;
          if ((2 * size + 1) * 2 ** lower - 2 ** digits < limit) {
            if (digits - lower <= model.nodeDigits) digit = model.decide(2 * size + negative, false);
            else if (model.hasLater && size < 1024) digit = later.decide(decoder, size);
            else digit = decoder.decide(32768);
          }
          size = 2 * size + digit;
        }
        size -= 2 ** digits - 1;
      }
      numbers[number] = negative ? -size : size;
    }
  }
}

/** What is already decoded around a place. Differences before the first are 0. */
class Neighbours {
  constructor({ mid, inner, last }, { shift }, numbers) {
    this.numbers = numbers;
    this.row = mid * inner;
    this.inner = inner;
    this.last = last;
    this.shift = shift;
    this.near1 = 2 ** shift;
    this.near2 = 2 ** (shift + 1);
  }

  back(number, distance) {
    return distance > 0 && distance <= number ? this.numbers[number - distance] : 0;
  }

  classOf(x) {
    const size = x < 0 ? -x : x;
    if (2 * size < this.near1) return 2;
    if (size < this.near2) return x > 0 ? 3 : 1;
    return x > 0 ? 4 : 0;
  }
}

const NODES = 80; // unary magnitudes end below node 80, the first five binary digits below 64
/** Where the counters of contexts 0 to 5 begin, which say 1, 48, 256, 125, 125 and more things; 6 and 7 follow. */
const CONTEXT_STARTS = [0, 1, 49, 305, 430, 555].map((things) => NODES * things);
const LATE_NODES = 8; // contexts 6 and 7 take nodes above 7 as 7

/** Coders 2 and 7: eight counters decide, mixed by weights that learn, and a correction that learns. */
class Mixer extends Neighbours {
  constructor(decoder, options, layout, numbers, frequency) {
    super(layout, options, numbers);
    this.decoder = decoder;
    this.frequency = frequency; // coder 7, and there are kernels
    this.nodeDigits = 5;
    this.hasLater = true;
    this.byColumn = layout.rows >= 8;
    this.byRow = this.row >= 8;
    this.columns = CONTEXT_STARTS[5] + NODES * (frequency ? 25 * Math.min(layout.inner, 64) : 180);
    this.rowsStart = this.columns + LATE_NODES * (this.byColumn ? this.row : 1);
    const rows = (this.byRow ? layout.rows : 1) * (frequency ? 4 : 1);
    this.counters = new Counters(this.rowsStart + LATE_NODES * rows, 1020);
    this.places = new Float64Array(8); // of the eight contexts' counters of node 0
    this.slots = new Float64Array(8); // of the counters that decide now
    this.inputs = new Int32Array(8);
    this.weights = new Float64Array(8 * NODES);
    this.corrections = new Int32Array(33 * NODES);
    this.uses = new Int32Array(NODES);
    for (let node = 0; node < NODES; node++) {
      this.weights.set((frequency ? FREQUENCY_WEIGHTS : FIRST_WEIGHTS)[Math.min(node, 2)], 8 * node);
      for (let step = 0; step <= 32; step++) {
        this.corrections[33 * node + step] = SQUASH[3071 + 128 * (step - 16)] << 6;
      }
    }
  }

  /** Find the contexts of difference `number`. */
  look(number) {
    const { shift, row, inner, last, places } = this;
    const column = number % row;
    const position = column % inner;
    const left = this.back(number, 1);
    const left2 = this.back(number, 2);
    const up = this.back(number, row);
    const [first, second] = [left < 0 ? -left : left, left2 < 0 ? -left2 : left2];
    let near, three, four;
    if (inner > 1) {
      const inside = position >= last;
      const over = inside ? this.back(number, last) : 0;
      const next = inside ? this.back(number, last - 1) : 0;
      const before = this.back(number, inner);
      near = 2 * first + second + 2 * Math.abs(over);
      three = 25 * this.classOf(left) + 5 * this.classOf(over) + this.classOf(before);
      four = 25 * this.classOf(up) + 5 * this.classOf(before) + this.classOf(next);
    } else {
      near = 2 * first + second + Math.abs(this.back(number, 3));
      three = 25 * this.classOf(left) + 5 * this.classOf(up) + this.classOf(left2);
      const [up2, upNext] = [this.back(number, 2 * row), this.back(number, row - 1)];
      four = 25 * this.classOf(up) + 5 * this.classOf(up2) + this.classOf(upNext);
    }
    if (near >= 8) {
      const octave = 29 - Math.clz32(near); // three less than its binary digits
      near = Math.min(4 * octave + (near >> octave), 47);
    }
    places[1] = CONTEXT_STARTS[1] + NODES * near;
    places[2] = CONTEXT_STARTS[2] + NODES * (4 * Math.min(position, 63) + Math.min(first >> shift, 3));
    places[3] = CONTEXT_STARTS[3] + NODES * three;
    places[4] = CONTEXT_STARTS[4] + NODES * four;
    const fifth = (number % 12) * 15 + this.classOf(left) * 3 + Math.min(second >> shift, 2);
    places[5] = CONTEXT_STARTS[5] + NODES * fifth;
    places[6] = this.columns + LATE_NODES * (this.byColumn ? column : 0);
    places[7] = this.rowsStart + LATE_NODES * (this.byRow ? Math.floor(number / row) : 0);
    if (this.frequency) this.lookAtFrequencies(number, position);
  }

  /** The contexts that coder 7 has in place of 3, 5 and 7. */
  lookAtFrequencies(number, position) {
    const { last, places } = this;
    const across = position % last;
    const along = (position - across) / last;
    const across2 = this.classOf(across >= 2 ? this.back(number, 2) : 0);
    const along2 = this.classOf(along >= 2 ? this.back(number, 2 * last) : 0);
    const lowest = this.classOf(this.back(number, position));
    places[3] = CONTEXT_STARTS[3] + NODES * (25 * across2 + 5 * along2 + lowest);
    places[5] = CONTEXT_STARTS[5] + NODES * (25 * Math.min(position, 63) + 5 * across2 + along2);
    const row = this.byRow ? Math.floor(number / this.row) : 0;
    places[7] = this.rowsStart + LATE_NODES * (4 * row + Math.min(along + across, 3));
  }

  decideSign() {
    return this.decide(1, false);
  }

  /** A decision at a node; `follows` says that it is one of unary magnitudes above 1. */
  decide(node, follows) {
    const { slots, places, inputs, weights, corrections } = this;
    const { chance, count } = this.counters;
    for (let i = 0; i < 6; i++) slots[i] = places[i] + node;
    for (let i = 6; i < 8; i++) slots[i] = places[i] + (node < 7 ? node : 7);
    if (follows && count[node] === 0) chance[node] = chance[node - 2];
    const parent = chance[node];
    const sure = clamp(1, Math.floor(2 ** 18 / (Math.min(parent, 2 ** 22 - parent) + 1)), 255);
    let sum = 0;
    for (let i = 0; i < 8; i++) {
      const slot = slots[i];
      if (i > 0 && count[slot] === 0) {
        chance[slot] = parent;
        count[slot] = sure;
      }
      inputs[i] = STRETCH[chance[slot] >> 6];
      sum += weights[8 * node + i] * inputs[i];
    }
    const mix = clamp(-3071, Math.floor(sum / 65536), 3071);
    const squashed = SQUASH[3071 + mix];
    const place = clamp(-2047, mix, 2047) + 2048;
    const part = place & 127;
    const step = 33 * node + (place >> 7);
    const corrected = (corrections[step] * (128 - part) + corrections[step + 1] * part) >> 13;
    const bit = this.decoder.decide(clamp(1, (3 * squashed + corrected) >> 2, 65535));

    const learned = part >= 64 ? step + 1 : step;
    corrections[learned] += ((bit << 22) - corrections[learned]) >> 6;
    const error = ((bit << 16) - squashed) * (5 + Math.floor(500 / (this.uses[node] + 50)));
    if (this.uses[node] < 500) this.uses[node]++;
    for (let i = 0; i < 8; i++) {
      weights[8 * node + i] += Math.floor((inputs[i] * error + 131072) / 262144);
      this.counters.learn(slots[i], bit);
    }
    return bit;
  }
}

/** Coder 6: one lone counter for each decision. */
class FastModel extends Neighbours {
  constructor(decoder, options, layout, numbers) {
    super(layout, options, numbers);
    this.decoder = decoder;
    this.nodeDigits = 8;
    this.hasLater = false;
    this.nodes = new Counters(16 * 512, 254); // a node from 0 to 511 in each class of near
    this.signs = new Counters(125, 254);
    this.near = 0;
    this.sign = 0;
  }

  look(number) {
    const { inner, last, row } = this;
    const position = (number % row) % inner;
    const left = this.back(number, 1);
    const left2 = this.back(number, 2);
    const over = this.back(number, inner > 1 && position >= last ? last : row);
    const near = Math.min((2 * Math.abs(left) + Math.abs(left2) + 2 * Math.abs(over)) >> this.shift, 63);
    this.near = near < 4 ? near : near < 12 ? 4 + ((near - 4) >> 1) : Math.min(8 + ((near - 12) >> 2), 15);
    const third = inner > 1 ? this.back(number, inner) : left2;
    this.sign = 25 * this.classOf(left) + 5 * this.classOf(over) + this.classOf(third);
  }

  decideSign() {
    return this.signs.decide(this.decoder, this.sign);
  }

  decide(node) {
    return this.nodes.decide(this.decoder, 512 * this.near + node);
  }
}

// ------------------------------------------------------------------------------------------------------------------
// Deflate (RFC 1951)

const LENGTH_BASES = [
  3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const CODE_LENGTH_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** A canonical Huffman code from the lengths of its words, 0 for symbols without one. */
function huffman(cursor, lengths, longest, mayLack = false) {
  const counts = new Uint32Array(longest + 1);
  for (const length of lengths) counts[length]++;
  let free = 1; // words that are still possible
  for (let length = 1; length <= longest; length++) {
    free = 2 * free - counts[length];
    if (free < 0) throw cursor.error("lengths of a Huffman code", "too many short ones");
  }
  const used = lengths.length - counts[0];
  if (free > 0 && !(mayLack && used <= 1 && counts[1] === used)) {
    throw cursor.error("lengths of a complete Huffman code", "too few");
  }
  const starts = new Uint32Array(longest + 2);
  for (let length = 1; length <= longest; length++) starts[length + 1] = starts[length] + counts[length];
  const symbols = new Uint16Array(used);
  lengths.forEach((length, symbol) => {
    if (length > 0) symbols[starts[length]++] = symbol;
  });
  return { counts, symbols, longest };
}

function nextSymbol(bits, { counts, symbols, longest }) {
  let [code, first, index] = [0, 0, 0];
  for (let length = 1; length <= longest; length++) {
    code |= bits.next("a Huffman code");
    const count = counts[length];
    if (code - first < count) return symbols[index + code - first];
    index += count;
    first = (first + count) << 1;
    code <<= 1;
  }
  throw bits.cursor.error("a word of the Huffman code", "another");
}

/** `size` bytes from a raw deflate stream up to the end of the cursor. */
function inflate(cursor, size) {
  const out = new Uint8Array(size);
  const bits = new Bits(cursor);
  let at = 0;
  for (let last = 0; !last; ) {
    last = bits.next("a block of deflate");
    const type = bits.number(2, "a block of deflate");
    if (type === 0) at = storedBlock(cursor, bits, out, at);
    else if (type === 1) at = codedBlock(cursor, bits, fixedCodes(cursor), out, at);
    else if (type === 2) at = codedBlock(cursor, bits, dynamicCodes(cursor, bits), out, at);
    else throw cursor.error("a block of deflate", "type 3");
  }
  if (bits.bit > 0) cursor.at++; // what is left of the byte may be anything
  if (at !== size) throw cursor.error(`${size} bytes from deflate`, at);
  cursor.done("a deflate stream");
  return out;
}

function storedBlock(cursor, bits, out, at) {
  if (bits.bit > 0) cursor.at++;
  bits.bit = 0;
  const head = cursor.take(4, "a stored block");
  const size = head[0] | (head[1] << 8);
  if ((size ^ (head[2] | (head[3] << 8))) !== 0xffff) throw cursor.error("the size of a stored block", "another");
  if (at + size > out.length) throw cursor.error(`${out.length} bytes from deflate`, "more");
  out.set(cursor.take(size, "a stored block"), at);
  return at + size;
}

function fixedCodes(cursor) {
  const lengths = Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));
  return [huffman(cursor, lengths, 15), huffman(cursor, new Array(32).fill(5), 15)];
}

function dynamicCodes(cursor, bits) {
  const number = (count) => bits.number(count, "the codes of deflate");
  const [literals, distances, count] = [number(5) + 257, number(5) + 1, number(4) + 4];
  if (literals > 286 || distances > 30) throw cursor.error("at most 286 and 30 codes", `${literals} and ${distances}`);
  const ofLengths = new Array(19).fill(0);
  for (let i = 0; i < count; i++) ofLengths[CODE_LENGTH_ORDER[i]] = number(3);
  const code = huffman(cursor, ofLengths, 7);
  const lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = nextSymbol(bits, code);
    if (symbol < 16) {
      lengths.push(symbol);
      continue;
    }
    if (symbol === 16 && lengths.length === 0) throw cursor.error("a length to repeat", "none");
    const value = symbol === 16 ? lengths[lengths.length - 1] : 0;
    const times = symbol === 16 ? 3 + number(2) : symbol === 17 ? 3 + number(3) : 11 + number(7);
    for (let i = 0; i < times; i++) lengths.push(value);
  }
  if (lengths.length > literals + distances) throw cursor.error("as many lengths as codes", "more");
  if (lengths[256] === 0) throw cursor.error("a code for the end of the block", "none");
  return [huffman(cursor, lengths.slice(0, literals), 15, true), huffman(cursor, lengths.slice(literals), 15, true)];
}

function codedBlock(cursor, bits, [literals, distances], out, at) {
  for (;;) {
    let symbol = nextSymbol(bits, literals);
    if (symbol === 256) return at;
    if (symbol < 256) {
      if (at >= out.length) throw cursor.error(`${out.length} bytes from deflate`, "more");
      out[at++] = symbol;
      continue;
    }
    symbol -= 257;
    if (symbol >= LENGTH_BASES.length) throw cursor.error("a length of deflate", symbol + 257);
    const length = LENGTH_BASES[symbol] + bits.number(LENGTH_BITS[symbol], "a length");
    const code = nextSymbol(bits, distances);
    if (code >= 30) throw cursor.error("a distance of deflate", code);
    const extra = code < 2 ? 0 : (code >> 1) - 1;
    const base = code < 2 ? code + 1 : (2 + (code & 1)) * 2 ** extra + 1;
    const distance = base + bits.number(extra, "a distance");
    if (distance > at) throw cursor.error(`a distance of at most ${at}`, distance);
    if (at + length > out.length) throw cursor.error(`${out.length} bytes from deflate`, "more");
    for (let i = 0; i < length; i++, at++) out[at] = out[at - distance];
  }
}

// ------------------------------------------------------------------------------------------------------------------
// bz2

/** Bits of a bz2 stream, the most significant bit of each byte first. */
class HighBits {
  constructor(cursor) {
    this.cursor = cursor;
    this.bit = 0;
  }

  next() {
    const { cursor } = this;
    if (cursor.at >= cursor.end) throw cursor.error("a bz2 stream", "the end");
    const value = (cursor.bytes[cursor.at] >> (7 - this.bit)) & 1;
    if (++this.bit === 8) {
      this.bit = 0;
      cursor.at++;
    }
    return value;
  }

  number(count) {
    let value = 0;
    for (let i = 0; i < count; i++) value = 2 * value + this.next();
    return value;
  }
}

const BZ2_BLOCK = 0x314159265359;
const BZ2_END = 0x177245385090;
const BZ2_CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  return crc >>> 0;
});

/** `size` bytes from a bz2 stream up to the end of the cursor. */
function unbz2(cursor, size) {
  const start = cursor.at;
  const head = String.fromCharCode(...cursor.take(4, "a bz2 stream"));
  if (!/^BZh[1-9]$/.test(head)) throw cursor.error("a bz2 stream", "other bytes", start);
  const most = 100000 * Number(head[3]);
  const out = new Uint8Array(size);
  const bits = new HighBits(cursor);
  let at = 0;
  let total = 0;
  for (;;) {
    const magic = bits.number(48);
    const wanted = bits.number(32);
    if (magic === BZ2_END) {
      if (wanted !== total) throw cursor.error(`bz2 checksum ${hex(total)}`, hex(wanted));
      break;
    }
    if (magic !== BZ2_BLOCK) throw cursor.error("a block of bz2", "other bits");
    const end = bz2Block(cursor, bits, most, out, at);
    let crc = 0xffffffff;
    for (; at < end; at++) crc = (crc << 8) ^ BZ2_CRC_TABLE[(crc >>> 24) ^ out[at]];
    crc = ~crc >>> 0;
    if (crc !== wanted) throw cursor.error(`bz2 checksum ${hex(crc)}`, hex(wanted));
    total = (((total << 1) | (total >>> 31)) ^ crc) >>> 0;
  }
  if (bits.bit > 0) cursor.at++; // what is left of the byte may be anything
  if (at !== size) throw cursor.error(`${size} bytes from bz2`, at);
  cursor.done("a bz2 stream");
  return out;
}

/** One block: Huffman codes, move to front, Burrows-Wheeler, run lengths; gives the end of what it wrote. */
function bz2Block(cursor, bits, most, out, at) {
  if (bits.next()) throw cursor.error("no randomised block of bz2", "one");
  const origin = bits.number(24);
  const { codes, selectors, front } = bz2Codes(cursor, bits);
  const last = front.length + 1; // the symbol that ends the block

  const block = new Uint32Array(most);
  const counts = new Uint32Array(256);
  let count = 0;
  const put = (byte, times) => {
    if (count + times > most) throw cursor.error(`a block of at most ${most} bytes`, "more");
    counts[byte] += times;
    block.fill(byte, count, count + times);
    count += times;
  };
  let [run, place] = [0, 1];
  for (let number = 0; ; number++) {
    const group = Math.floor(number / 50);
    if (group >= selectors.length) throw cursor.error("the end of a block of bz2", "none");
    const symbol = nextSymbol({ next: () => bits.next(), cursor }, codes[selectors[group]]);
    if (symbol <= 1) {
      run += (symbol + 1) * place;
      place *= 2;
      if (run > most) throw cursor.error(`a run of at most ${most}`, run);
      continue;
    }
    if (run > 0) put(front[0], run);
    [run, place] = [0, 1];
    if (symbol === last) break;
    const [byte] = front.splice(symbol - 1, 1);
    front.unshift(byte);
    put(byte, 1);
  }
  if (origin >= count) throw cursor.error(`an origin below ${count}`, origin);
  return bz2Runs(cursor, block, counts, count, origin, out, at);
}

/** Undo Burrows-Wheeler and the first run lengths. */
function bz2Runs(cursor, block, counts, count, origin, out, at) {
  const starts = new Uint32Array(256);
  for (let byte = 1; byte < 256; byte++) starts[byte] = starts[byte - 1] + counts[byte - 1];
  for (let i = 0; i < count; i++) block[starts[block[i] & 255]++] |= i << 8;
  let place = block[origin] >>> 8;
  let same = 0;
  let before = -1;
  for (let i = 0; i < count; i++) {
    const byte = block[place] & 255;
    place = block[place] >>> 8;
    const times = same === 4 ? byte : 1;
    if (at + times > out.length) throw cursor.error(`${out.length} bytes from bz2`, "more");
    if (same === 4) {
      out.fill(before, at, at + times);
      same = 0;
      before = -1;
    } else {
      out[at] = byte;
      same = byte === before ? same + 1 : 1;
      before = byte;
    }
    at += times;
  }
  if (same === 4) throw cursor.error("the length of a run", "the end of a block");
  return at;
}

/** The Huffman codes of a block, which code each 50 symbols take, and the bytes in use. */
function bz2Codes(cursor, bits) {
  const front = [];
  const used = bits.number(16);
  for (let i = 0; i < 16; i++) {
    if (!((used >> (15 - i)) & 1)) continue;
    const bytes = bits.number(16);
    for (let j = 0; j < 16; j++) if ((bytes >> (15 - j)) & 1) front.push(16 * i + j);
  }
  const tables = bits.number(3);
  const count = bits.number(15);
  if (front.length === 0 || tables < 2 || tables > 6 || count === 0) {
    throw cursor.error("bytes, 2 to 6 codes and their groups", `${front.length}, ${tables} and ${count}`);
  }
  const order = [0, 1, 2, 3, 4, 5];
  const selectors = Array.from({ length: count }, () => {
    let place = 0;
    while (bits.next()) if (++place >= tables) throw cursor.error(`a code below ${tables}`, "more");
    const [table] = order.splice(place, 1);
    order.unshift(table);
    return table;
  });
  const codes = Array.from({ length: tables }, () => {
    let length = bits.number(5);
    const lengths = Array.from({ length: front.length + 2 }, () => {
      for (;;) {
        if (length < 1 || length > 20) throw cursor.error("lengths from 1 to 20", length);
        if (!bits.next()) return length;
        length += bits.next() ? -1 : 1;
      }
    });
    return bz2Huffman(cursor, lengths);
  });
  return { codes, selectors, front };
}

/** bz2 allows codes with words to spare. */
function bz2Huffman(cursor, lengths) {
  let free = 2 ** 20;
  for (const length of lengths) free -= 2 ** (20 - length);
  if (free < 0) throw cursor.error("lengths of a Huffman code", "too many short ones");
  const counts = new Uint32Array(21);
  for (const length of lengths) counts[length]++;
  const starts = new Uint32Array(22);
  for (let length = 1; length <= 20; length++) starts[length + 1] = starts[length] + counts[length];
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, symbol) => (symbols[starts[length]++] = symbol));
  return { counts, symbols, longest: 20 };
}

// ------------------------------------------------------------------------------------------------------------------
// LZMA2

/** `size` bytes from an LZMA2 stream without container, up to the end of the cursor. */
function unlzma2(cursor, size) {
  let dictionary = 2 ** 12;
  while (dictionary < size && dictionary < 2 ** 26) dictionary *= 2;
  const state = new Lzma(cursor, new Uint8Array(size), dictionary);
  let needs = "dictionary"; // what the next chunk must bring: a dictionary, properties, a state, or nothing
  for (;;) {
    const at = cursor.at;
    const control = cursor.byte("a chunk of LZMA2");
    if (control === 0) break;
    if (control < 0x80) {
      if (control > 2) throw cursor.error("a chunk of LZMA2", `control byte ${control}`, at);
      if (control === 1) {
        state.start = state.at;
        needs = "properties";
      } else if (needs === "dictionary") throw cursor.error("a chunk that resets the dictionary", control, at);
      state.copy(bigEndian(cursor.take(2, "the size of a chunk")) + 1);
      if (needs === "") needs = "state";
      continue;
    }
    const reset = (control >> 5) & 3;
    const plain = ((control & 31) << 16) + bigEndian(cursor.take(2, "the size of a chunk")) + 1;
    const packed = bigEndian(cursor.take(2, "the size of a chunk")) + 1;
    const least = { dictionary: 3, properties: 2, state: 1, "": 0 }[needs];
    if (reset < least) throw cursor.error(`a chunk that resets the ${needs}`, `reset ${reset}`, at);
    if (reset === 3) state.start = state.at;
    if (reset >= 2) state.setProperties(cursor.byte("the properties of LZMA"));
    if (reset >= 1) state.reset();
    state.decode(cursor.part(packed, "a chunk of LZMA2"), plain);
    needs = "";
  }
  if (state.at !== size) throw cursor.error(`${size} bytes from LZMA2`, state.at);
  cursor.done("an LZMA2 stream");
  return state.out;
}

function bigEndian(bytes) {
  return (bytes[0] << 8) | bytes[1];
}

/** Probabilities of 11 bits that start at one half. */
function probabilities(size) {
  return new Uint16Array(size).fill(1024);
}

/** The decoder of one chunk after the other; `out` is its dictionary. */
class Lzma {
  constructor(cursor, out, dictionary) {
    Object.assign(this, { cursor, out, dictionary, at: 0, start: 0 });
  }

  setProperties(byte) {
    this.lc = byte % 9;
    this.lp = Math.floor(byte / 9) % 5;
    this.pb = Math.floor(byte / 45);
    if (this.pb > 4 || this.lc + this.lp > 4) throw this.cursor.error("properties of LZMA2", byte, this.cursor.at - 1);
  }

  reset() {
    this.state = 0;
    this.distances = [0, 0, 0, 0]; // the last four, less 1
    this.literal = probabilities(0x300 << (this.lc + this.lp));
    this.isMatch = probabilities(12 * 16);
    this.isRep = probabilities(12);
    this.isRep0 = probabilities(12);
    this.isRep1 = probabilities(12);
    this.isRep2 = probabilities(12);
    this.isRep0Long = probabilities(12 * 16);
    const lengths = () => ({
      choice: probabilities(2),
      low: probabilities(16 * 8),
      mid: probabilities(16 * 8),
      high: probabilities(256),
    });
    this.lengths = lengths();
    this.repLengths = lengths();
    this.slots = probabilities(4 * 64);
    this.special = probabilities(128);
    this.align = probabilities(16);
  }

  /** An uncompressed chunk. */
  copy(size) {
    if (this.at + size > this.out.length) throw this.cursor.error(`${this.out.length} bytes from LZMA2`, "more");
    this.out.set(this.cursor.take(size, "an uncompressed chunk"), this.at);
    this.at += size;
  }

  bit(table, i) {
    const bound = (this.range >>> 11) * table[i];
    let bit = 0;
    if (this.code < bound) {
      this.range = bound;
      table[i] += (2048 - table[i]) >> 5;
    } else {
      this.range = (this.range - bound) >>> 0;
      this.code = (this.code - bound) >>> 0;
      table[i] -= table[i] >> 5;
      bit = 1;
    }
    if (this.range < 2 ** 24) this.normalize();
    return bit;
  }

  normalize() {
    this.range = (this.range << 8) >>> 0;
    this.code = ((this.code << 8) | this.chunk.byte("a chunk of LZMA2")) >>> 0;
  }

  direct(count) {
    let value = 0;
    for (let i = 0; i < count; i++) {
      this.range >>>= 1;
      const bit = this.code >= this.range ? 1 : 0;
      if (bit) this.code = (this.code - this.range) >>> 0;
      value = 2 * value + bit;
      if (this.range < 2 ** 24) this.normalize();
    }
    return value;
  }

  tree(table, base, count) {
    let node = 1;
    for (let i = 0; i < count; i++) node = 2 * node + this.bit(table, base + node);
    return node - (1 << count);
  }

  reverseTree(table, base, count) {
    let [node, value] = [1, 0];
    for (let i = 0; i < count; i++) {
      const bit = this.bit(table, base + node);
      node = 2 * node + bit;
      value |= bit << i;
    }
    return value;
  }

  length({ choice, low, mid, high }, position) {
    if (!this.bit(choice, 0)) return 2 + this.tree(low, 8 * position, 3);
    if (!this.bit(choice, 1)) return 10 + this.tree(mid, 8 * position, 3);
    return 18 + this.tree(high, 0, 8);
  }

  decode(chunk, size) {
    this.chunk = chunk;
    const end = this.at + size;
    if (end > this.out.length) throw chunk.error(`${this.out.length} bytes from LZMA2`, "more");
    if (chunk.byte("a chunk of LZMA2") !== 0) throw chunk.error("a chunk that begins with 0", "another", chunk.at - 1);
    this.range = 0xffffffff;
    this.code = 0;
    for (let i = 0; i < 4; i++) this.code = ((this.code << 8) | chunk.byte("a chunk of LZMA2")) >>> 0;
    while (this.at < end) {
      const position = (this.at - this.start) & ((1 << this.pb) - 1);
      if (!this.bit(this.isMatch, 16 * this.state + position)) this.decodeLiteral();
      else this.decodeMatch(position, end);
    }
    if (this.code !== 0) throw chunk.error("the end of a chunk of LZMA2", "more");
    chunk.done("a chunk of LZMA2");
  }

  decodeLiteral() {
    const { out, at, start, lc, lp } = this;
    const before = at > start ? out[at - 1] : 0;
    const base = 0x300 * ((((at - start) & ((1 << lp) - 1)) << lc) + (before >> (8 - lc)));
    let symbol = 1;
    if (this.state >= 7) {
      let match = out[at - this.distances[0] - 1];
      do {
        const high = (match >> 7) & 1;
        match <<= 1;
        const bit = this.bit(this.literal, base + ((1 + high) << 8) + symbol);
        symbol = 2 * symbol + bit;
        if (bit !== high) break;
      } while (symbol < 256);
    }
    while (symbol < 256) symbol = 2 * symbol + this.bit(this.literal, base + symbol);
    out[this.at++] = symbol & 255;
    this.state = this.state < 4 ? 0 : this.state < 10 ? this.state - 3 : this.state - 6;
  }

  decodeMatch(position, end) {
    const { distances, state } = this;
    let length;
    if (!this.bit(this.isRep, state)) {
      distances.pop();
      length = this.length(this.lengths, position);
      this.state = state < 7 ? 7 : 10;
      distances.unshift(this.distance(length));
    } else {
      let short = false;
      if (!this.bit(this.isRep0, state)) short = !this.bit(this.isRep0Long, 16 * state + position);
      else {
        const which = !this.bit(this.isRep1, state) ? 1 : !this.bit(this.isRep2, state) ? 2 : 3;
        distances.unshift(...distances.splice(which, 1));
      }
      if (short) {
        length = 1;
        this.state = state < 7 ? 9 : 11;
      } else {
        length = this.length(this.repLengths, position);
        this.state = state < 7 ? 8 : 11;
      }
    }
    const distance = distances[0] + 1;
    const most = Math.min(this.at - this.start, this.dictionary);
    if (distance > most) throw this.chunk.error(`a distance of at most ${most}`, distance);
    if (this.at + length > end) throw this.chunk.error("a match within its chunk", "a longer one");
    const { out } = this;
    for (let i = 0; i < length; i++, this.at++) out[this.at] = out[this.at - distance];
  }

  distance(length) {
    const slot = this.tree(this.slots, 64 * Math.min(length - 2, 3), 6);
    if (slot < 4) return slot;
    const count = (slot >> 1) - 1;
    const base = (2 | (slot & 1)) * 2 ** count;
    if (slot < 14) return base + this.reverseTree(this.special, base - slot, count);
    return base + this.direct(count - 4) * 16 + this.reverseTree(this.align, 0, 4);
  }
}
