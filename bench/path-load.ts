/**
 * The data path without the system: bytes of requests in, bytes of replies out, over a device that does nothing. What is measured
 * is ours alone, so the bytes allocated per request are the same on every machine, and a test holds them to a budget.
 */
import { getHeapStatistics } from 'node:v8';
import { BlockCache } from '../src/block/cache/block-cache.ts';
import type { BlockDevice, DeviceLimits } from '../src/block/device.ts';
import { type IoRequest, Op, type RequestOwner, RequestPool } from '../src/block/request.ts';
import type { Table } from '../src/dm/table.ts';
import { targets } from '../src/dm/targets.ts';
import { turnClock } from '../src/dm/turn-clock.ts';
import { Volume } from '../src/dm/volume.ts';
import { BufferPool } from '../src/nbd/buffer-pool.ts';
import { Command } from '../src/nbd/command.ts';
import { Executor } from '../src/nbd/executor.ts';
import type { NbdExport } from '../src/nbd/exports.ts';
import { PLAIN_TERMS, type Terms } from '../src/nbd/features.ts';
import { PayloadBudget } from '../src/nbd/payload-budget.ts';
import { Transmission } from '../src/nbd/transmission.ts';
import { judge } from '../src/nbd/validate.ts';

const SIZE_SECTORS = 2 ** 24;
/** Requests of one event-loop turn. */
export const BATCH = 32;

/** Ends what it was given when it is told to. */
export class NullDevice implements BlockDevice {
  readonly name = 'null';
  readonly limits: DeviceLimits = {
    sizeBytes: SIZE_SECTORS * 512,
    logicalBlockSize: 512,
    physicalBlockSize: 512,
    requestAlignment: 1,
    readOnly: false,
    canDiscard: true,
    discardGranularity: 512,
  };
  readonly #queue: IoRequest[] = [];

  submit(request: IoRequest): void {
    this.#queue.push(request);
  }

  endAll(): void {
    // What is submitted meanwhile ends, too.
    for (let i = 0; i < this.#queue.length; i++) {
      const request = this.#queue[i];
      request?.owner.ioDone(request);
    }
    this.#queue.length = 0;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Something that handles BATCH requests each time it is called. */
export type Round = () => void;

export function linearVolume(device: BlockDevice): Volume {
  const table: Table = [{ start: 0, length: SIZE_SECTORS, target: 'linear', params: { device: 'null', offset: 0 } }];
  const volume = new Volume('bench', { targets });
  volume.load(table, () => device);
  volume.resume();
  return volume;
}

/** Requests side by side, as a client sends them. */
function requests(type: 0 | 1, bytes: number, batch: number): Buffer {
  const each = 28 + (type === 1 ? bytes : 0);
  const all = Buffer.alloc(each * batch);
  for (let i = 0; i < batch; i++) {
    const at = i * each;
    all.writeUInt32BE(0x25609513, at);
    all.writeUInt16BE(type, at + 6);
    all.writeUInt32BE(i, at + 12);
    all.writeUInt32BE(((i * 7919) % 1024) * bytes, at + 20);
    all.writeUInt32BE(bytes, at + 24);
  }
  return all;
}

function exported(volume: BlockDevice): NbdExport {
  return { name: 'x', readOnly: false, volume, canTrim: true, statusSource: () => null };
}

/** From received bytes to collected replies, with everything between but sockets and devices. */
export function wholePath(type: 0 | 1, bytes: number, terms: Partial<Terms> = {}, batch: number = BATCH): Round {
  const device = new NullDevice();
  const volume = linearVolume(device);
  const export_ = exported(volume);
  const executor = new Executor(export_, new RequestPool(), (command, error) => {
    transmission.finish(command, error);
  });
  const waiter = { roomForPayload: (): void => {} };
  const memory = { buffers: new BufferPool(), budget: new PayloadBudget(2 ** 30), waiter };
  const limits = { maxRequests: 256, maxBytes: 2 ** 26 };
  const transmission = new Transmission(export_, memory, limits, executor, { ...PLAIN_TERMS, ...terms });
  const input = requests(type, bytes, batch);
  const pieces: Buffer[] = [];
  return () => {
    // As a turn of sessions does it, and as a socket does.
    turnClock.beginBatch();
    for (let at = 0; at < input.length;) {
      const space = transmission.space();
      const count = Math.min(space.length, input.length - at);
      input.copy(space, 0, at, at + count);
      at += count;
      transmission.received(count);
    }
    turnClock.endBatch();
    turnClock.beginBatch();
    device.endAll();
    turnClock.endBatch();
    transmission.collect(pieces);
    pieces.length = 0;
    transmission.sent();
  };
}

/** Decoding and judging alone. */
export function codec(): Round {
  const export_ = exported(new NullDevice());
  const input = requests(0, 4096, BATCH);
  const command = new Command(0);
  return () => {
    for (let i = 0; i < BATCH; i++) {
      command.decode(input, i * 28);
      command.refusal = judge(command, export_);
    }
  };
}

/** Mapping alone. */
export function mapper(): Round {
  const device = new NullDevice();
  const volume = linearVolume(device);
  const pool = new RequestPool();
  const owner: RequestOwner = { ioDone: (request) => pool.release(request) };
  const buffer = Buffer.alloc(4096);
  return () => {
    for (let i = 0; i < BATCH; i++) {
      const request = pool.acquire(owner);
      request.op = Op.read;
      request.offset = i * 65_536;
      request.length = 4096;
      request.buffer = buffer;
      volume.submit(request);
    }
    device.endAll();
  };
}

/**
 * Mapping, and reads or writes of what is in the block cache, which end on the next turn: of one block in sixteen, again and again; or at
 * random places of `spanBytes`.
 */
export function cached(op: typeof Op.read | typeof Op.write, spanBytes = 0): Round {
  const device = new NullDevice();
  const sizeBytes = Math.max(2 ** 22, spanBytes * 1.5);
  const cache = new BlockCache({ sizeBytes, policy: 'writeback', scheduler: 'none', readAhead: false });
  const volume = linearVolume(cache.attach(device));
  const pool = new RequestPool();
  const owner: RequestOwner = { ioDone: (request) => pool.release(request) };
  const buffer = Buffer.alloc(4096);
  const blocks = spanBytes / 4096;
  let state = 1;
  return () => {
    turnClock.beginBatch();
    for (let i = 0; i < BATCH; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      const request = pool.acquire(owner);
      request.op = op;
      request.offset = blocks === 0 ? i * 65_536 : ((state >>> 8) % blocks) * 4096;
      request.length = 4096;
      request.buffer = buffer;
      volume.submit(request);
    }
    turnClock.endBatch();
    // What was missing, or is written back.
    device.endAll();
  };
}

/** As `measure`, of rounds that end on the next turn: the turn itself is counted, too. */
export async function measureTurns(
  round: Round,
  rounds: number,
): Promise<{ readonly bytes: number; readonly ns: number }> {
  const run = (): Promise<void> =>
    new Promise((resolve) => {
      let left = rounds;
      const next = (): void => {
        if (left-- === 0) {
          resolve();
          return;
        }
        round();
        setImmediate(next);
      };
      next();
    });
  await run();
  const before = getHeapStatistics().total_allocated_bytes;
  const start = process.hrtime.bigint();
  await run();
  const ns = Number(process.hrtime.bigint() - start);
  const bytes = getHeapStatistics().total_allocated_bytes - before;
  return { bytes: bytes / (rounds * BATCH), ns: ns / (rounds * BATCH) };
}

/** Bytes allocated on the heap and nanoseconds, per request, once everything is compiled and pools have grown. */
export function measure(round: Round, rounds: number): { readonly bytes: number; readonly ns: number } {
  for (let i = 0; i < rounds; i++) round();
  const before = getHeapStatistics().total_allocated_bytes;
  const start = process.hrtime.bigint();
  for (let i = 0; i < rounds; i++) round();
  const ns = Number(process.hrtime.bigint() - start);
  const bytes = getHeapStatistics().total_allocated_bytes - before;
  return { bytes: bytes / (rounds * BATCH), ns: ns / (rounds * BATCH) };
}
