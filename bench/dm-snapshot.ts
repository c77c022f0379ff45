/**
 * What snapshots cost an origin in CPU: ns per random 4 KiB write through a volume, plain and with 1, 4 and 16 snapshots that
 * have all chunks already, and with snapshots that have none yet (first writes). Devices do nothing, so this is the mapping alone.
 *
 *     node bench/dm-snapshot.ts
 */
import type { BlockDevice, DeviceLimits } from '../src/block/device.ts';
import { type IoRequest, Op, type RequestOwner, RequestPool } from '../src/block/request.ts';
import type { Table } from '../src/dm/table.ts';
import { targets } from '../src/dm/targets.ts';
import { Volume } from '../src/dm/volume.ts';

const CHUNK = 4096;
const CHUNKS = 65_536;
const SECTORS = (CHUNK / 512) * CHUNKS;
const DEPTH = 64;
const WRITES = 400_000;

/** Ends everything on the next turn; reads give zeroes. */
class NullDevice implements BlockDevice {
  readonly name: string;
  readonly limits: DeviceLimits;
  #queue: IoRequest[] = [];
  #other: IoRequest[] = [];

  constructor(name: string, sizeBytes: number) {
    this.name = name;
    const limits = { logicalBlockSize: 512, physicalBlockSize: 512, requestAlignment: 1, readOnly: false };
    this.limits = { sizeBytes, ...limits, canDiscard: false, discardGranularity: 0 };
  }

  submit(request: IoRequest): void {
    if (this.#queue.push(request) === 1) setImmediate(() => this.#turn());
  }

  #turn(): void {
    const queue = this.#queue;
    this.#queue = this.#other;
    this.#other = queue;
    for (const request of queue) {
      request.error = 0;
      request.owner.ioDone(request);
    }
    queue.length = 0;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

const real = new NullDevice('real', SECTORS * 512);
const payload = Buffer.alloc(CHUNK);

/** Chunks in an order without runs. */
function chunkAt(index: number): number {
  return (index * 40_503) % CHUNKS;
}

/** `count` writes of a chunk each, DEPTH in flight; gives ns of CPU per write. */
function write(volume: Volume, count: number): Promise<number> {
  return new Promise((resolve) => {
    const pool = new RequestPool();
    const cpu = process.cpuUsage();
    let sent = 0;
    let ended = 0;
    const next = (): void => {
      const request = pool.acquire(owner);
      request.op = Op.write;
      request.offset = chunkAt(sent++) * CHUNK;
      request.length = CHUNK;
      request.buffer = payload;
      volume.submit(request);
    };
    const owner: RequestOwner = {
      ioDone(request) {
        pool.release(request);
        ended++;
        if (sent < count) next();
        if (ended < count) return;
        const { user, system } = process.cpuUsage(cpu);
        resolve(((user + system) * 1000) / count);
      },
    };
    for (let i = 0; i < DEPTH; i++) next();
  });
}

async function measure(snapshots: number): Promise<void> {
  const origin = new Volume('vg/origin', { targets });
  const layer = { name: 'vg/origin-real', table: linear() };
  const params = { origin: layer, originId: 'o' };
  const own: Table = snapshots === 0 ? linear() : [{ start: 0, length: SECTORS, target: 'snapshot-origin', params }];
  origin.load(own, () => real);
  origin.resume();
  const volumes: Volume[] = [];
  for (let i = 0; i < snapshots; i++) {
    const cow = new NullDevice(`cow${i}`, SECTORS * 512 * 2);
    const volume = new Volume(`vg/s${i}`, { targets });
    const table = [
      {
        start: 0,
        length: SECTORS,
        target: 'snapshot',
        params: { ...params, cow: 'cow', persistent: 'P', chunkSize: 8 },
      },
    ];
    volume.load(table, (name) => (name === 'cow' ? cow : real));
    volume.resume();
    volumes.push(volume);
  }
  const first = snapshots === 0 ? null : await write(origin, CHUNKS);
  await write(origin, WRITES / 4);
  const copied = await write(origin, WRITES);
  const firsts = first === null ? '' : `, first writes ${first.toFixed(0)} ns`;
  process.stdout.write(`${snapshots} snapshots: ${copied.toFixed(0)} ns of CPU per write${firsts}\n`);
  await origin.close();
  for (const volume of volumes) await volume.close();
}

function linear(): Table {
  return [{ start: 0, length: SECTORS, target: 'linear', params: { device: 'real', offset: 0 } }];
}

for (const count of [0, 1, 4, 16, 0, 1]) await measure(count);
