/**
 * Conversations that a client might have, from its flags to its end: mostly right, with wrong parts here and there, so that the
 * mutations of the fuzzer start behind the first checks and not in front of them.
 */
import { clientFlags, extendedRequest, option, query, request } from '../nbd/wire.ts';
import type { Random } from './random.ts';

/** The exports that the target has. */
export const EXPORT_NAMES = ['vg/data', 'vg/readonly', ''] as const;
export const EXPORT_BYTES: number = 256 * 1024;

const LENGTHS = [0, 1, 511, 512, 4096, 4097, 65_536, 131_072, EXPORT_BYTES, EXPORT_BYTES + 1] as const;
const LIES = [0, 1, 2 ** 16, 2 ** 20 + 1, 2 ** 26 + 1, 2 ** 27 + 1, 2 ** 31, 2 ** 32 - 1] as const;
const OFFSETS = [0, 1, 4096, 65_535, EXPORT_BYTES - 4096, EXPORT_BYTES - 1, EXPORT_BYTES, 2 ** 40, 2 ** 53] as const;
const CONTEXTS = [
  'base:allocation',
  'base:',
  'x-orion:segment',
  'x-orion:',
  'qemu:dirty-bitmap:snap',
  'qemu:',
  ':',
  'none',
  '',
];

/** A whole conversation. */
export function conversation(random: Random): Buffer {
  const name = random.pick(EXPORT_NAMES);
  const parts = [clientFlags(random.once(16) ? random.below(8) : 3)];
  const extended = random.once(2);
  if (extended) parts.push(option(11));
  if (!extended || random.once(4)) parts.push(option(8));
  for (let i = random.below(4); i > 0; i--) parts.push(someOption(random, name));
  if (random.once(2)) parts.push(option(10, contextQuery(random, name)));
  parts.push(random.once(8) ? option(1, Buffer.from(name)) : option(7, query(name, random.once(2) ? [3, 1, 2] : [])));
  for (let i = 1 + random.below(12); i > 0; i--) parts.push(someRequest(random, extended));
  if (random.once(2)) parts.push(extended ? extendedRequest({ type: 2 }) : request({ type: 2 }));
  return Buffer.concat(parts);
}

function someOption(random: Random, name: string): Buffer {
  switch (random.below(8)) {
    case 0:
      return option(3);
    case 1:
      return option(6, query(name, [0, 1, 2, 3, random.below(9)], random.once(4) ? { count: random.below(9) } : {}));
    case 2:
      return option(7, query(random.pick(['vg/none', 'vg/data', name])));
    case 3:
      return option(random.below(14), Buffer.alloc(random.below(40), random.below(256)));
    case 4:
      return option(random.below(14), Buffer.alloc(random.below(8)), random.pick(LIES) % 2 ** 18);
    default:
      return option(random.once(3) ? 9 : 10, contextQuery(random, name));
  }
}

function contextQuery(random: Random, name: string): Buffer {
  const queries = Array.from({ length: random.below(4) }, () => Buffer.from(random.pick(CONTEXTS)));
  const count = random.once(12) ? random.pick(LIES) : queries.length;
  const nameBytes = Buffer.from(name);
  const length = random.once(12) ? random.pick(LIES) : nameBytes.length;
  return Buffer.concat([
    number(length),
    nameBytes,
    number(count),
    ...queries.flatMap((text) => [number(random.once(16) ? random.pick(LIES) : text.length), text]),
  ]);
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function someRequest(random: Random, extended: boolean): Buffer {
  const type = random.once(20) ? random.below(65_536) : random.pick([0, 0, 0, 1, 1, 3, 4, 5, 6, 7, 7]);
  const offset = random.once(4) ? random.pick(OFFSETS) : random.below(EXPORT_BYTES);
  const length = random.once(10) ? random.pick(LIES) : random.pick(LENGTHS) % (EXPORT_BYTES + 2);
  const flags = random.once(3) ? (random.once(4) ? random.below(64) : 1 << random.below(6)) : 0;
  const cookie = BigInt(random.next());
  const payload = type === 1 ? Buffer.alloc(length > EXPORT_BYTES + 1 ? 16 : length, random.below(256)) : undefined;
  const fields = { type, offset, length, flags, cookie, ...(payload === undefined ? {} : { payload }) };
  if (!extended) return request(fields);
  if (type === 7 && random.once(3)) return extendedRequest({ ...fields, flags: flags | 32, ...filter(random) });
  return extendedRequest({ ...fields, flags: type === 1 && !random.once(12) ? flags | 32 : flags & ~32 });
}

/** What BLOCK_STATUS may have as payload: how much is meant, and which contexts. */
function filter(random: Random): { length: number; payload: Buffer } {
  const ids = Array.from({ length: random.below(3) }, () => random.below(4));
  const payload = Buffer.alloc(8 + 4 * ids.length);
  payload.writeBigUInt64BE(BigInt(random.once(8) ? random.pick(LIES) : random.below(EXPORT_BYTES)));
  ids.forEach((id, index) => payload.writeUInt32BE(id, 8 + 4 * index));
  return { length: payload.length, payload };
}
