/**
 * What the specification allows a server to say to a client's bytes of the transmission phase, written from the specification
 * and not from the server: the client's stream is read here a second time, and the server's answers are held against it.
 *
 * What is checked
 *  - Every reply is whole, of a kind that was negotiated, and for a request that was made and has no final reply yet.
 *  - Every request that came whole, before the client broke the protocol or said goodbye, gets exactly one final reply.
 *  - A good READ brings each of its bytes once; bytes that no request of the conversation changes are those of the disk.
 *  - BLOCK_STATUS tells of selected contexts only, in extents that are not empty, and at most of one for REQ_ONE.
 *  - Errors are the protocol's own numbers.
 */
import assert from 'node:assert/strict';
import type { Features } from '../../src/nbd/features.ts';

export interface Judged {
  readonly type: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
  /** Bytes of the disk that are told of: a BLOCK_STATUS with a payload has them there. */
  readonly effect: bigint;
  /** The contexts that its payload names, for a BLOCK_STATUS that has one; null: all that were selected. */
  readonly named: readonly number[] | null;
  /** Whether its payload came whole. */
  readonly whole: boolean;
  /** Where it stands in the stream. */
  readonly start: number;
}

const ERRNOS = new Set([1, 5, 12, 22, 28, 75, 95, 108]);
/** A payload that a server need not read to its end: it may hang up instead. */
const MUST_READ = 64 * 2 ** 20;
const PAYLOAD_LEN = 32;
const REQ_ONE = 8;
const DF = 4;

/** The requests in a client's stream, up to the one after which nothing counts. */
export function requestsIn(stream: Buffer, extended: boolean): Judged[] {
  const found: Judged[] = [];
  const header = extended ? 32 : 28;
  for (let at = 0; at + header <= stream.length;) {
    if (stream.readUInt32BE(at) !== (extended ? 0x21e41c71 : 0x25609513)) break;
    const flags = stream.readUInt16BE(at + 4);
    const type = stream.readUInt16BE(at + 6);
    const length = extended ? stream.readBigUInt64BE(at + 24) : BigInt(stream.readUInt32BE(at + 24));
    if (type === 2) break;
    const hasPayload = type === 1 || (extended && (flags & PAYLOAD_LEN) !== 0);
    const end = BigInt(at + header) + (hasPayload ? length : 0n);
    const whole = end <= BigInt(stream.length);
    const filtered = type === 7 && hasPayload && whole && length >= 8n;
    const effect = filtered ? stream.readBigUInt64BE(at + header) : length;
    const named = filtered
      ? Array.from({ length: Math.floor((Number(length) - 8) / 4) }, (_, i) =>
          stream.readUInt32BE(at + header + 8 + 4 * i),
        )
      : null;
    const offset = stream.readBigUInt64BE(at + 16);
    found.push({
      type,
      flags,
      cookie: stream.readBigUInt64BE(at + 8),
      offset,
      length,
      effect,
      named,
      whole,
      start: at,
    });
    if (!whole || (hasPayload && length > MUST_READ)) break;
    at = Number(end);
  }
  return found;
}

/** Gives every request a cookie of its own, in place: with two alike nobody could tell whose a reply is. */
export function tellApart(stream: Buffer, extended: boolean): void {
  requestsIn(stream, extended).forEach(({ start }, index) =>
    stream.writeBigUInt64BE(BigInt(index) * 0x100000001n, start + 8),
  );
}

interface Reply {
  readonly cookie: bigint;
  readonly done: boolean;
  readonly kind: 'simple' | 'none' | 'data' | 'hole' | 'status' | 'error';
  readonly error: number;
  readonly payload: Buffer;
}

/** Holds the server's bytes against the client's, whose requests are told apart by their cookies; `disk` is what was there before. */
export function judge(
  client: Buffer,
  server: Buffer,
  features: Features,
  disk: Buffer,
): { readonly requests: number; readonly replies: number } {
  const extended = features.extendedHeaders;
  const requests = requestsIn(client, extended);
  const open = new Map(requests.map((request) => [request.cookie, request]));
  assert.equal(open.size, requests.length, 'requests with the same cookie');
  const changed = requests.filter(({ type }) => type === 1 || type === 4 || type === 6);
  const parts = new Map<bigint, Reply[]>();
  let replies = 0;
  let at = 0;
  while (at < server.length) {
    const [reply, end] = readReply(server, at, features, open);
    at = end;
    const request = open.get(reply.cookie);
    assert.ok(request !== undefined, `a reply for cookie ${reply.cookie}, which is not open`);
    const all = [...(parts.get(reply.cookie) ?? []), reply];
    if (!reply.done) {
      parts.set(reply.cookie, all);
      continue;
    }
    parts.delete(reply.cookie);
    open.delete(reply.cookie);
    replies++;
    fits(request, all, { features, disk, changed, extended });
  }
  assert.equal(parts.size, 0, 'a reply without its last chunk');
  const unanswered = [...open.values()].filter(({ whole }) => whole);
  const last = requests.at(-1);
  const excused = last !== undefined && last.length > BigInt(MUST_READ) ? 1 : 0;
  assert.ok(unanswered.length <= excused, `${unanswered.length} requests without a reply: ${describe(unanswered)}`);
  return { requests: requests.length, replies };
}

function describe(requests: readonly Judged[]): string {
  return requests.map(({ type, cookie, offset, length }) => `${type} ${cookie} ${offset}+${length}`).join(', ');
}

function readReply(bytes: Buffer, at: number, features: Features, open: ReadonlyMap<bigint, Judged>): [Reply, number] {
  const magic = bytes.readUInt32BE(at);
  const cookie = bytes.readBigUInt64BE(at + 8);
  if (magic === 0x67446698) {
    assert.ok(!features.extendedHeaders, 'a simple reply although extended headers were negotiated');
    const error = bytes.readUInt32BE(at + 4);
    const request = open.get(cookie);
    const reads = error === 0 && request?.type === 0;
    if (reads) assert.ok(!features.structuredReplies, 'a READ answered by a simple reply');
    const end = at + 16 + (reads ? Number(request.length) : 0);
    assert.ok(end <= bytes.length, 'a cut reply');
    return [{ cookie, done: true, kind: 'simple', error, payload: bytes.subarray(at + 16, end) }, end];
  }
  const extended = features.extendedHeaders;
  assert.equal(magic, extended ? 0x6e8a278c : 0x668e33ef, `no reply at ${at}`);
  assert.ok(features.structuredReplies || extended, 'a chunk although structured replies were not negotiated');
  const flags = bytes.readUInt16BE(at + 4);
  assert.equal(flags & ~1, 0, 'unknown flags of a chunk');
  const start = at + (extended ? 32 : 20);
  const end = start + (extended ? Number(bytes.readBigUInt64BE(at + 24)) : bytes.readUInt32BE(at + 16));
  assert.ok(end <= bytes.length, 'a cut chunk');
  const payload = bytes.subarray(start, end);
  const type = bytes.readUInt16BE(at + 6);
  const kinds = new Map([
    [0, 'none'],
    [1, 'data'],
    [2, 'hole'],
    [extended ? 6 : 5, 'status'],
    [0x8001, 'error'],
    [0x8002, 'error'],
  ] as const);
  const kind = kinds.get(type as 0);
  assert.ok(kind !== undefined, `a chunk of type ${type}`);
  const error = kind === 'error' ? payload.readUInt32BE(0) : 0;
  if (kind === 'error') {
    assert.notEqual(error, 0);
    assert.equal(payload.length, 6 + payload.readUInt16BE(4) + (type === 0x8002 ? 8 : 0), 'a lying error chunk');
  }
  return [{ cookie, done: (flags & 1) !== 0, kind, error, payload }, end];
}

interface World {
  readonly features: Features;
  readonly disk: Buffer;
  readonly changed: readonly Judged[];
  readonly extended: boolean;
}

function fits(request: Judged, reply: readonly Reply[], world: World): void {
  const errors = reply.filter(({ error }) => error !== 0);
  for (const { error } of errors) assert.ok(ERRNOS.has(error), `error ${error}`);
  if (errors.length > 0) return;
  assert.ok(request.whole, 'success for a request whose payload never came');
  if (request.type === 0) return fitsRead(request, reply, world);
  if (request.type === 7) return fitsStatus(request, reply, world);
  assert.equal(reply.length, 1, 'several chunks for a request that has no data');
  assert.ok(reply[0]?.kind === 'none' || reply[0]?.kind === 'simple', `${reply[0]?.kind} for type ${request.type}`);
  assert.ok([1, 3, 4, 5, 6].includes(request.type), `success for a request of type ${request.type}`);
}

function fitsRead(request: Judged, reply: readonly Reply[], { disk, changed }: World): void {
  const offset = Number(request.offset);
  const length = Number(request.length);
  assert.ok(offset + length <= disk.length, 'a READ beyond the end succeeded');
  const data = Buffer.alloc(length);
  const seen = Buffer.alloc(length);
  if ((request.flags & DF) !== 0)
    assert.ok(reply.filter(({ kind }) => kind !== 'none').length <= 1, 'DF and several chunks');
  for (const { kind, payload } of reply) {
    if (kind === 'none') continue;
    assert.ok(kind === 'simple' || kind === 'data' || kind === 'hole', `a ${kind} chunk for a READ`);
    const place = kind === 'simple' ? 0 : Number(payload.readBigUInt64BE(0)) - offset;
    const bytes = kind === 'simple' ? payload : payload.subarray(8);
    const size = kind === 'hole' ? bytes.readUInt32BE(0) : bytes.length;
    assert.ok(place >= 0 && place + size <= length, 'a chunk outside its READ');
    assert.ok(!seen.subarray(place, place + size).includes(1), 'bytes that were sent twice');
    seen.fill(1, place, place + size);
    if (kind !== 'hole') bytes.copy(data, place);
  }
  assert.ok(!seen.includes(0), 'bytes that were not sent');
  const untouched = changed.every(
    (change) => change.offset >= request.offset + request.length || change.offset + change.length <= request.offset,
  );
  if (untouched) assert.ok(data.equals(disk.subarray(offset, offset + length)), 'wrong data');
}

function fitsStatus(request: Judged, reply: readonly Reply[], { features, extended }: World): void {
  const selected = features.contexts.map(({ id }) => id);
  const ids = new Set(request.named ?? selected);
  assert.equal(ids.size, (request.named ?? selected).length, 'success for a context that is named twice');
  assert.ok(ids.size > 0 && ids.isSubsetOf(new Set(selected)), 'success for contexts that were not selected');
  for (const { kind, payload } of reply) {
    if (kind === 'none') continue;
    assert.equal(kind, 'status', `a ${kind} chunk for a BLOCK_STATUS`);
    assert.ok(ids.delete(payload.readUInt32BE(0)), 'a context that was not asked about, or twice');
    const entry = extended ? 16 : 8;
    const first = extended ? 8 : 4;
    assert.equal((payload.length - first) % entry, 0, 'a cut extent');
    const count = (payload.length - first) / entry;
    if (extended) assert.ok([0, count].includes(payload.readUInt32BE(4)), 'a lying count of extents');
    assert.ok(count >= 1, 'no extent');
    let sum = 0n;
    for (let at = first; at < payload.length; at += entry) {
      const length = extended ? payload.readBigUInt64BE(at) : BigInt(payload.readUInt32BE(at));
      assert.ok(length > 0n, 'an empty extent');
      sum += length;
    }
    if ((request.flags & REQ_ONE) === 0) continue;
    assert.equal(count, 1, 'REQ_ONE and several extents');
    assert.ok(sum <= request.effect, 'REQ_ONE and more than was asked for');
  }
  assert.equal(ids.size, 0, 'a context that nothing is said of');
}
