/**
 * The payloads of options, from bytes to values or to what is wrong with them.
 *
 *     INFO, GO                    0 name length u32  4 name  n count u16  n+2 count × info type u16
 *     LIST and SET_META_CONTEXT   0 name length u32  4 name  n count u32  n+4 count × (length u32, query)
 *
 * Invariant: the parts add up to the payload exactly, and no length is believed before it was compared with what there is.
 */
import { InfoType, MAX_CONTEXT_QUERIES, MAX_STRING_BYTES } from './constants.ts';

export interface ExportQuery {
  readonly name: string;
  readonly infoTypes: readonly number[];
}

export interface ContextQuery {
  readonly name: string;
  /** As they came, byte for byte. */
  readonly queries: readonly string[];
}

const KNOWN_INFO_TYPES: readonly number[] = [InfoType.name, InfoType.description, InfoType.blockSize];
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The text of a name, or what is wrong with it. */
export function decodeName(bytes: Buffer): { readonly name: string } | { readonly problem: string } {
  if (bytes.length > MAX_STRING_BYTES) {
    return { problem: `the export name has ${bytes.length} bytes, at most ${MAX_STRING_BYTES} are allowed` };
  }
  if (bytes.includes(0)) return { problem: 'the export name contains a NUL byte' };
  try {
    return { name: decoder.decode(bytes) };
  } catch {
    return { problem: 'the export name is not valid UTF-8' };
  }
}

/** Reads the payload of INFO and GO, whose parts must add up exactly, or says what is wrong with it. */
export function decodeQuery(payload: Buffer): ExportQuery | { readonly problem: string } {
  if (payload.length < 6) return { problem: `the payload has ${payload.length} bytes, at least 6 are needed` };
  const nameLength = payload.readUInt32BE(0);
  if (nameLength > payload.length - 6) {
    return { problem: `a name of ${nameLength} bytes does not fit in a payload of ${payload.length}` };
  }
  const decoded = decodeName(payload.subarray(4, 4 + nameLength));
  if ('problem' in decoded) return decoded;
  const count = payload.readUInt16BE(4 + nameLength);
  const expected = 6 + nameLength + 2 * count;
  if (payload.length !== expected) {
    return { problem: `${count} information requests need a payload of ${expected} bytes, it has ${payload.length}` };
  }
  const asked = new Set<number>();
  for (let at = 6 + nameLength; at < expected; at += 2) asked.add(payload.readUInt16BE(at));
  return { name: decoded.name, infoTypes: KNOWN_INFO_TYPES.filter((type) => asked.has(type)) };
}

/** Reads the payload of LIST_META_CONTEXT and SET_META_CONTEXT, or says what is wrong with it; `tooBig` if it is only too much. */
export function decodeContextQuery(
  payload: Buffer,
): ContextQuery | { readonly problem: string; readonly tooBig?: true } {
  if (payload.length < 8) return { problem: `the payload has ${payload.length} bytes, at least 8 are needed` };
  const nameLength = payload.readUInt32BE(0);
  if (nameLength > payload.length - 8) {
    return { problem: `a name of ${nameLength} bytes does not fit in a payload of ${payload.length}` };
  }
  const decoded = decodeName(payload.subarray(4, 4 + nameLength));
  if ('problem' in decoded) return decoded;
  const count = payload.readUInt32BE(4 + nameLength);
  let at = 8 + nameLength;
  if (4 * count > payload.length - at) {
    return { problem: `${count} queries do not fit in the ${payload.length - at} bytes after the name` };
  }
  if (count > MAX_CONTEXT_QUERIES) {
    return { problem: `${count} queries, at most ${MAX_CONTEXT_QUERIES} are allowed`, tooBig: true };
  }
  const queries: string[] = [];
  while (queries.length < count) {
    const length = at + 4 <= payload.length ? payload.readUInt32BE(at) : Number.POSITIVE_INFINITY;
    if (length > payload.length - at - 4) return { problem: `query ${queries.length + 1} does not fit in the payload` };
    if (length > MAX_STRING_BYTES)
      return { problem: `a query of ${length} bytes, at most ${MAX_STRING_BYTES} are allowed` };
    queries.push(payload.toString('latin1', at + 4, at + 4 + length));
    at += 4 + length;
  }
  if (at !== payload.length) return { problem: `${payload.length - at} bytes after the last query` };
  return { name: decoded.name, queries };
}

/**
 * Those of the offered contexts that the queries mean, each once, in the order of the offer. With `wildcards` (LIST) no query means
 * everything, and one that ends in a colon what begins with it. What is not offered means nothing, whatever its namespace.
 */
export function contextsMeant(
  queries: readonly string[],
  offered: readonly string[],
  { wildcards }: { readonly wildcards: boolean },
): readonly string[] {
  if (wildcards && queries.length === 0) return offered;
  const exact = new Set(queries);
  const prefixes = wildcards ? [...exact].filter((query) => query.endsWith(':')) : [];
  return offered.filter((name) => exact.has(name) || prefixes.some((prefix) => name.startsWith(prefix)));
}
