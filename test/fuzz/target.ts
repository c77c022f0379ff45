/**
 * What is fuzzed: a client's bytes played to a handshake and, where it ends in an export, to a session on a disk in memory, cut into
 * pieces and carried out in turns as a socket would do it. What the server says is held against the specification (judge.ts).
 *
 * Invariants
 *  - Nothing random but by the seed: the same input and seed are the same conversation.
 *  - After a conversation nothing is left: no buffer, no request, no byte of the payload budget.
 */
import assert from 'node:assert/strict';
import { MemoryDevice } from '../../src/block/memory.ts';
import { writeBytes } from '../../src/block/sync-io.ts';
import { RequestPool } from '../../src/block/request.ts';
import type { Table } from '../../src/dm/table.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import { Handshake } from '../../src/nbd/handshake.ts';
import { finalReply, type Negotiated } from '../../src/nbd/option-replies.ts';
import { PayloadBudget } from '../../src/nbd/payload-budget.ts';
import { Session, type SessionTransport } from '../../src/nbd/session.ts';
import { TurnQueue } from '../../src/nbd/turn-queue.ts';
import { termsOf } from '../../src/nbd/exports.ts';
import { makeExport, type TestExport, TestDirectory } from '../nbd/exports.ts';
import { optionReplies } from '../nbd/wire.ts';
import { EXPORT_BYTES } from './grammar.ts';
import { judge, tellApart } from './judge.ts';
import { Random } from './random.ts';

/** Event-loop turns after which a conversation that has not ended hangs: far more than any needs. */
const MAX_TURNS = 20_000;
/** Bytes that a handshake may say at most; LISTs of a few exports are all that is long. */
const MAX_SAID = 2 ** 20;

export interface Played {
  /** How far it came. */
  readonly end: 'handshake' | 'transmission';
  readonly requests: number;
  readonly replies: number;
}

const SECTOR = 512;
/** The disk in sectors: data, a large hole, a sector of data, a small hole, data, sectors that can't be read, data. */
const LAYOUT = [
  ['linear', 128],
  ['zero', 128],
  ['linear', 1],
  ['zero', 1],
  ['linear', 126],
  ['error', 8],
  ['linear', EXPORT_BYTES / SECTOR - 392],
] as const;

/** What is on the disk before a conversation: no two numbers alike, but for the holes. */
export const DISK: Buffer = Buffer.alloc(EXPORT_BYTES);

/** The volume's table, on one device that DISK lies on; fills DISK. */
function table(): Table {
  let start = 0;
  return LAYOUT.map(([target, length]) => {
    const line = { start, length, target, params: target === 'linear' ? { device: 'disk', offset: start } : null };
    if (target === 'linear')
      for (let at = start * SECTOR; at < (start + length) * SECTOR; at += 4)
        DISK.writeUInt32BE(Math.imul(at, 0x9e3779b1) >>> 0, at);
    start += length;
    return line;
  });
}
const TABLE = table();

/** Plays `input` and checks everything; throws what is wrong. */
export async function play(input: Buffer, seed: number): Promise<Played> {
  const random = new Random(seed);
  const disk = new MemoryDevice({ sizeBytes: EXPORT_BYTES, name: 'disk' });
  await writeBytes(disk, 0, DISK);
  const volume = new Volume('vg/data', { targets });
  volume.load(TABLE, () => disk);
  volume.resume();
  const exports = [
    makeExport({ name: 'vg/data', volume }),
    makeExport({ name: 'vg/readonly', volume, readOnly: true }),
  ];
  const negotiated = handshake(cut(input, random), new TestDirectory(exports));
  if (negotiated === null) return { end: 'handshake', requests: 0, replies: 0 };
  for (const piece of finalReply(negotiated)) assert.ok(piece.length > 0);
  const export_ = exports.find(({ name }) => name === negotiated.info.name);
  assert.ok(export_ !== undefined, 'an export that there is not');
  const stream = Buffer.from(negotiated.leftover);
  tellApart(stream, negotiated.features.extendedHeaders);
  return transmission(negotiated, export_, stream, random);
}

/** The input as the pieces in which it arrives. */
function cut(input: Buffer, random: Random): Buffer[] {
  const pieces: Buffer[] = [];
  const most = random.pick([1, 7, 64, 5000, 2 ** 20]);
  for (let at = 0; at < input.length;) {
    // Byte by byte only for the first of a long conversation: it is about borders, not about patience.
    const size = pieces.length > 2000 ? input.length : 1 + random.below(most);
    pieces.push(Buffer.from(input.subarray(at, at + size)));
    at += size;
  }
  return pieces;
}

/** Plays the pieces until an export is agreed on: all that comes then is left over. Null where the connection ends before. */
function handshake(pieces: readonly Buffer[], directory: TestDirectory): Negotiated | null {
  const machine = new Handshake(directory.viewFor());
  let said = 0;
  for (const [index, piece] of pieces.entries()) {
    const { replies, outcome } = machine.receive(piece);
    optionReplies(Buffer.concat(replies));
    for (const reply of replies) said += reply.length;
    assert.ok(said <= MAX_SAID, `a handshake of ${said} bytes`);
    if (outcome === null) continue;
    if (outcome.kind !== 'negotiated') return null;
    const { negotiated } = outcome;
    return { ...negotiated, leftover: Buffer.concat([negotiated.leftover, ...pieces.slice(index + 1)]) };
  }
  return null;
}

/** The server's end of the connection: what it says is kept, and taken by the client in a later turn. */
class Wire implements SessionTransport {
  readonly movable = true;
  readonly said: Buffer[] = [];
  paused = false;
  finished = false;
  /** Sends that the client has not taken. */
  unsent = 0;

  send(pieces: readonly Buffer[]): void {
    assert.ok(!this.finished, 'it speaks after its last word');
    this.said.push(...pieces.map((piece) => Buffer.from(piece)));
    this.unsent++;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  finish(): void {
    assert.ok(!this.finished, 'it ends twice');
    this.finished = true;
  }
}

async function transmission(
  negotiated: Negotiated,
  export_: TestExport,
  stream: Buffer,
  random: Random,
): Promise<Played> {
  const budget = new PayloadBudget(2 ** 20);
  const shared = {
    buffers: new BufferPool({ poison: true }),
    budget,
    turns: new TurnQueue(),
    requests: new RequestPool(),
    limits: { maxRequests: random.pick([1, 4, 256]), maxBytes: random.pick([2 ** 17, 2 ** 20]) },
  };
  const wire = new Wire();
  const state = { released: false };
  const session = new Session(
    { export: export_, terms: termsOf(negotiated.features, negotiated.info) },
    shared,
    wire,
    () => (state.released = true),
  );
  let turns = 0;
  const turn = async (): Promise<void> => {
    assert.ok(turns++ < MAX_TURNS, 'it hangs');
    await new Promise((resolve) => setImmediate(resolve));
    for (; wire.unsent > 0; wire.unsent--) session.sent();
  };
  for (const piece of cut(stream, random)) {
    while ((wire.paused || session.holding) && !session.draining) await turn();
    if (session.draining) break;
    if (random.once(2)) session.receive(piece);
    else await intoSpace(session, piece, wire, turn);
    if (random.once(4)) await turn();
  }
  if (!session.draining) session.ended();
  while (!wire.finished) await turn();
  session.vanished();
  while (!state.released) await turn();
  const outcome = judge(stream, Buffer.concat(wire.said), negotiated.features, DISK);
  assert.equal(shared.buffers.outstanding, 0, 'buffers that were not released');
  assert.equal(shared.requests.outstanding, 0, 'requests that were not released');
  assert.equal(budget.used, 0, 'payload memory that is still charged');
  assert.equal(budget.waiting, 0, 'it still waits for payload memory');
  return { end: 'transmission', ...outcome };
}

/** As a socket does that reads into the session's own memory. */
async function intoSpace(session: Session, piece: Buffer, wire: Wire, turn: () => Promise<void>): Promise<void> {
  for (let at = 0; at < piece.length && !session.draining;) {
    while ((wire.paused || session.holding) && !session.draining) await turn();
    if (session.draining) return;
    const space = session.space();
    assert.ok(space.length > 0, 'no room to read into');
    const count = piece.copy(space, 0, at);
    session.received(count);
    at += count;
  }
}
