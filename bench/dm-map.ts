/**
 * What the mapping of a volume costs: ns per 4 KiB request through tables of several kinds, over devices that do nothing,
 * and bytes of heap per request (0 when nothing is allocated; the counter's own noise is a few bytes).
 *
 *     node --expose-gc bench/dm-map.ts
 */
import type { BlockDevice, DeviceLimits } from '../src/block/device.ts';
import { type IoRequest, Op, type RequestOwner, RequestPool } from '../src/block/request.ts';
import type { Table } from '../src/dm/table.ts';
import { targets } from '../src/dm/targets.ts';
import { Volume } from '../src/dm/volume.ts';

const SIZE_SECTORS = 2 ** 27;
const BATCH = 128;
const ROUNDS = 20_000;

/** Ends what it was given when it is told to. */
class NullDevice implements BlockDevice {
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
    for (const request of this.#queue) request.owner.ioDone(request);
    this.#queue.length = 0;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function measure(name: string, table: Table, length: number): void {
  const device = new NullDevice();
  const volume = new Volume('bench', { targets });
  volume.load(table, () => device);
  volume.resume();
  const pool = new RequestPool();
  const owner: RequestOwner = { ioDone: (request) => pool.release(request) };
  const buffer = Buffer.alloc(length);
  const blocks = Math.floor(volume.limits.sizeBytes / length) - 1;
  let state = 1;
  const round = (): void => {
    for (let i = 0; i < BATCH; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      const request = pool.acquire(owner);
      request.op = Op.read;
      request.offset = (state % blocks) * length;
      request.length = length;
      request.buffer = buffer;
      volume.submit(request);
    }
    device.endAll();
  };
  for (let i = 0; i < ROUNDS / 10; i++) round();
  globalThis.gc?.();
  const heap = process.memoryUsage().heapUsed;
  const start = process.hrtime.bigint();
  for (let i = 0; i < ROUNDS; i++) round();
  const elapsed = Number(process.hrtime.bigint() - start);
  const bytes = process.memoryUsage().heapUsed - heap;
  const requests = ROUNDS * BATCH;
  process.stdout.write(
    `${name.padEnd(32)} ${(elapsed / requests).toFixed(0).padStart(6)} ns ${(bytes / requests).toFixed(2).padStart(8)} B/request\n`,
  );
}

function pieces(count: number): Table {
  const length = Math.floor(SIZE_SECTORS / count);
  return Array.from({ length: count }, (_, i) => {
    const params = { device: 'null', offset: (count - 1 - i) * length };
    return { start: i * length, length, target: 'linear', params };
  });
}

function stripes(count: number): Table {
  const each = Math.floor(SIZE_SECTORS / count / 128) * 128;
  const list = Array.from({ length: count }, (_, i) => ({ device: 'null', offset: i * each }));
  return [{ start: 0, length: each * count, target: 'striped', params: { chunkSize: 128, stripes: list } }];
}

measure('linear, 1 segment', pieces(1), 4096);
measure('linear, 64 segments', pieces(64), 4096);
measure('linear, 65,536 segments', pieces(65_536), 4096);
measure('4 stripes of 64 KiB', stripes(4), 4096);
measure('4 stripes, 256 KiB requests', stripes(4), 262_144);
