// Owns reading a protobuf message one level deep: what is nested stays the bytes it was, however much it holds.
// Called by rules.ts for messages that carry payloads. Pure.
import { Reader, Writer } from 'protobufjs/minimal';

/** More top-level fields than any message that is read this way has. */
const MAX_FIELDS = 32;
const LENGTH_DELIMITED = 2;

/**
 * Strings, bytes and nested messages by their numbers; numbers are left out. Reading 4 MiB of empty payloads whole would
 * make two million objects of it.
 * @throws Error when a field comes twice, which no SDK writes and not all readers understand alike, or when it is no protobuf
 */
export function splitFields(body: Uint8Array): Map<number, Uint8Array> {
  const reader = Reader.create(body);
  const fields = new Map<number, Uint8Array>();
  for (let count = 0; reader.pos < reader.len; count += 1) {
    if (count >= MAX_FIELDS) throw new Error('too many fields');
    const tag = reader.uint32();
    const [number, wireType] = [tag >>> 3, tag & 7];
    if (number === 0 || fields.has(number)) throw new Error(`field ${number} twice, or none`);
    if (wireType === LENGTH_DELIMITED) fields.set(number, reader.bytes());
    else reader.skipType(wireType);
  }
  return fields;
}

export function joinFields(fields: Iterable<readonly [number, Uint8Array]>): Uint8Array {
  const writer = Writer.create();
  for (const [number, bytes] of fields) writer.uint32((number << 3) | LENGTH_DELIMITED).bytes(bytes);
  return writer.finish();
}

/** The first nested message of a number; undefined: there is none. Reads no further than that. @throws Error when it is no protobuf */
export function firstField(body: Uint8Array, wanted: number): Uint8Array | undefined {
  const reader = Reader.create(body);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === ((wanted << 3) | LENGTH_DELIMITED)) return reader.bytes();
    reader.skipType(tag & 7);
  }
  return undefined;
}
