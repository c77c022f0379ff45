/**
 * A rehearsal of the moment in which a volume gets another table: done on volumes in memory, so that its code is compiled when requests
 * wait for it. The engine compiles a function when it is first called, and forgets it when that was long ago; a suspend that does all of
 * it for the first time takes milliseconds instead of a tenth of one.
 *
 * Invariants
 *  - Nothing of it can be seen outside: no device of anybody is touched, and all of its volumes are closed when it ends.
 *  - It waits for nobody: its requests are reads, since what a write copies for a snapshot goes through memory that all snapshots share, and
 *    that is lent for as long as somebody's device hangs.
 */
import { MemoryDevice } from '../block/memory.ts';
import { IoRequest, Op } from '../block/request.ts';
import type { Table } from './table.ts';
import { targets } from './targets.ts';
import { Volume } from './volume.ts';

const SECTORS = 64;
const CHUNK_SECTORS = 8;
const SECTOR_BYTES = 512;

let rehearsals = 0;

/** A linear volume becomes the origin of a new snapshot and is one no more, each time with a request on its way and one that has to wait. */
export async function rehearse(): Promise<void> {
  const device = new MemoryDevice({ name: 'rehearsal', sizeBytes: 2 * SECTORS * SECTOR_BYTES });
  const resolve = (): MemoryDevice => device;
  // Unlike those of another rehearsal, and of every volume.
  const [originId, cowId] = ['origin', 'store'].map((of) => `rehearsal ${of} ${rehearsals++}`);
  const plain = linear(0);
  const origin = { name: 'origin', table: plain };
  const ids = { originId: originId!, origin };
  const watched: Table = [
    { start: 0, length: SECTORS, target: 'snapshot-origin', params: { ...ids, snapshots: [cowId!] } },
  ];
  const params = { ...ids, cow: { name: 'store', table: linear(SECTORS) }, cowId: cowId!, persistent: 'P' };
  const taken: Table = [
    { start: 0, length: SECTORS, target: 'snapshot', params: { ...params, chunkSize: CHUNK_SECTORS } },
  ];
  const volume = new Volume('origin', { targets });
  const snapshot = new Volume('snapshot', { targets });
  volume.load(plain, resolve);
  volume.resume();
  volume.load(watched, resolve);
  snapshot.load(taken, resolve);
  await snapshot.prepare();
  await exchange(volume, snapshot);
  await snapshot.close();
  volume.load(plain, resolve);
  await exchange(volume, null);
  await volume.close();
}

async function exchange(volume: Volume, beside: Volume | null): Promise<void> {
  const onTheWay = read(volume, 0);
  await volume.flush();
  const suspended = volume.suspend(undefined, false);
  const held = read(volume, CHUNK_SECTORS * SECTOR_BYTES);
  await suspended;
  volume.resume();
  beside?.resume();
  await Promise.all([onTheWay, held, volume.flush()]);
}

function read(volume: Volume, offset: number): Promise<void> {
  return new Promise((done) => {
    const request = new IoRequest();
    request.op = Op.read;
    request.offset = offset;
    request.length = SECTOR_BYTES;
    request.buffer = Buffer.alloc(SECTOR_BYTES);
    request.owner = { ioDone: () => done() };
    volume.submit(request);
  });
}

function linear(offset: number): Table {
  return [{ start: 0, length: SECTORS, target: 'linear', params: { device: 'rehearsal', offset } }];
}
