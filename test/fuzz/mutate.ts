/** Changes of a conversation: bytes, numbers that matter, parts that are moved, doubled, dropped or taken from another one. */
import type { Random } from './random.ts';

/** Longest input in bytes. */
const MAX_INPUT = 2 ** 20;
const NUMBERS = [
  0,
  1,
  2,
  3,
  5,
  6,
  7,
  8,
  9,
  10,
  11,
  16,
  27,
  28,
  32,
  64,
  4096,
  65_535,
  65_536,
  2 ** 26,
  2 ** 31,
  2 ** 32 - 1,
];
/** Where messages begin: "IHAVEOPT", a compact request, an extended one. */
const STARTS = [Buffer.from('IHAVEOPT'), Buffer.from([0x25, 0x60, 0x95, 0x13]), Buffer.from([0x21, 0xe4, 0x1c, 0x71])];

/** A changed copy of `input`; `other` is another one to take parts from. */
export function mutate(input: Buffer, other: Buffer, random: Random): Buffer {
  let bytes: Buffer = Buffer.from(input);
  for (let i = 1 + random.below(4); i > 0; i--) bytes = mutateOnce(bytes, other, random);
  return bytes.subarray(0, MAX_INPUT);
}

function mutateOnce(bytes: Buffer, other: Buffer, random: Random): Buffer {
  if (bytes.length === 0) return Buffer.from(other);
  const at = random.below(bytes.length);
  switch (random.below(8)) {
    case 0:
      bytes[at] = random.below(256);
      return bytes;
    case 1:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
      return bytes;
    case 2:
      return withNumber(bytes, at, random);
    case 3:
      return bytes.subarray(0, at);
    case 4: {
      const [from, to] = part(bytes, random);
      return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]);
    }
    case 5: {
      const [from, to] = part(bytes, random);
      const [place] = part(bytes, random);
      return Buffer.concat([bytes.subarray(0, place), bytes.subarray(from, to), bytes.subarray(place)]);
    }
    case 6: {
      const [from, to] = part(other, random);
      const [place] = part(bytes, random);
      return Buffer.concat([bytes.subarray(0, place), other.subarray(from, to), bytes.subarray(place)]);
    }
    default:
      return Buffer.concat([
        bytes.subarray(0, at),
        Buffer.alloc(random.below(64), random.below(256)),
        bytes.subarray(at),
      ]);
  }
}

/** A number of 2, 4 or 8 bytes in the header of some message, or anywhere. */
function withNumber(bytes: Buffer, at: number, random: Random): Buffer {
  const [start] = part(bytes, random);
  const width = random.pick([2, 4, 8]);
  const place = random.once(3) ? at : start + random.pick([4, 6, 8, 12, 16, 20, 24, 28]);
  if (place + width > bytes.length) return bytes;
  const value = BigInt(random.pick(NUMBERS));
  if (width === 8) bytes.writeBigUInt64BE(value, place);
  else bytes.writeUIntBE(Number(value % 2n ** BigInt(8 * width)), place, width);
  return bytes;
}

/** From the start of one message to the start of a later one, or to the end. */
function part(bytes: Buffer, random: Random): [number, number] {
  const starts = STARTS.flatMap((start) => {
    const found: number[] = [];
    for (let at = bytes.indexOf(start); at >= 0 && found.length < 64; at = bytes.indexOf(start, at + 1)) found.push(at);
    return found;
  }).toSorted((a, b) => a - b);
  if (starts.length === 0) return [0, bytes.length];
  const first = random.below(starts.length);
  const next = first + 1 + random.below(3);
  return [starts[first] ?? 0, starts[next] ?? bytes.length];
}
