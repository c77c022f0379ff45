/**
 * After a power cut the kernel's dm-snapshot reads our stores as we do, and its merge goes on where ours was cut: for a sample of the states
 * that a cut can leave while chunks are copied, while a store runs full, and while a snapshot is merged.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { MemoryDevice } from '../../src/block/memory.ts';
import { crashStates } from '../../src/block/power-cut.ts';
import { contentOf, Family, isMerged } from '../dm/snapshot-harness.ts';
import { Scenario } from '../dm/snapshot-scenario.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

/** Of each kind. */
const STATES = 20;
const CHUNK_SECTORS = 8;

interface Sample {
  /** How the kernel is to see it: as a snapshot, or as its origin with a merge that goes on. */
  readonly target: 'snapshot' | 'snapshot-merge';
  readonly origin: Buffer;
  readonly cow: Buffer;
  /** Of the volume as we read it, or "Invalid". */
  readonly sha256: string;
}

function memory(name: string, image: Buffer): MemoryDevice {
  const device = new MemoryDevice({ name, sizeBytes: image.length });
  device.poke(0, image);
  return device;
}

async function readByUs(origin: Buffer, cow: Buffer): Promise<string> {
  const family = new Family(memory('real', origin));
  const spec = { name: 's', cow: memory('cow', cow), chunkSize: CHUNK_SECTORS };
  const content = await contentOf(await family.snapshot(spec));
  await family.close();
  return content === null ? 'Invalid' : hashOf(content);
}

async function mergedByUs(origin: Buffer, cow: Buffer): Promise<string> {
  const family = new Family(memory('real', origin));
  const store = memory('cow', cow);
  const table = family.mergeTable({ name: 's', cow: store, chunkSize: CHUNK_SECTORS });
  family.origin.load(table, family.resolver(store));
  await family.origin.suspend();
  family.origin.resume();
  while (!isMerged(family.statusOf('origin'))) await turn();
  const content = await contentOf(family.origin);
  await family.close();
  assert(content !== null);
  return hashOf(content);
}

function hashOf(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

/** States of a scenario, spread over all moments. That they hold what they must is checked by our reader first. */
async function samplesOf(seed: number, cowSectors: number, target: Sample['target']): Promise<readonly Sample[]> {
  const scenario = new Scenario(128, seed);
  await scenario.snapshot('a', CHUNK_SECTORS, cowSectors, cowSectors < 128);
  await scenario.write(6, 4, ['origin', 'a']);
  if (target === 'snapshot-merge') {
    await scenario.merge('a');
    await scenario.write(4, 2, ['origin']);
    await scenario.merged();
  }
  await scenario.check(3, seed);
  const shot = scenario.merging?.shot ?? scenario.shots[0];
  assert(shot !== undefined);
  const since = scenario.merging?.since ?? shot.since;
  const states = [...crashStates(scenario.journal, { statesPerMoment: 3, seed })].filter(
    ({ description }) => Number(/entry (\d+)/.exec(description)?.[1]) >= since,
  );
  const chosen = states.filter((_, index) => index % Math.ceil(states.length / STATES) === 0);
  return Promise.all(
    chosen.map(async ({ images }): Promise<Sample> => {
      const [origin, cow] = [images.get(scenario.real), images.get(shot.spec.cow)];
      assert(origin !== undefined && cow !== undefined);
      const read = target === 'snapshot' ? readByUs : mergedByUs;
      return { target, origin, cow, sha256: await read(origin, cow) };
    }),
  );
}

test('the kernel reads what power cuts left of our snapshots', async () => {
  await withTemporaryFolder(async (folder) => {
    const copied = await samplesOf(11, 700, 'snapshot');
    const full = await samplesOf(12, 72, 'snapshot');
    const merged = await samplesOf(13, 700, 'snapshot-merge');
    for (const some of [copied, full, merged]) assert(some.length > STATES / 2, String(some.length));
    assert(full.some(({ sha256 }) => sha256 === 'Invalid') && full.some(({ sha256 }) => sha256 !== 'Invalid'));
    const taken = [...copied, ...full, ...merged];
    const lines: string[] = [];
    let sector = 0;
    for (const { target, origin, cow, sha256 } of taken) {
      lines.push(`${sector} ${origin.length / 512} ${cow.length / 512} ${CHUNK_SECTORS} ${target} ${sha256}`);
      sector += (origin.length + cow.length) / 512;
    }
    const disk = join(folder, 'states');
    await writeFile(disk, Buffer.concat(taken.flatMap(({ origin, cow }) => [origin, cow])));
    const { status, output } = await runInVm(join(import.meta.dirname, 'snapshot-crashes.sh'), {
      args: [lines.join('\n')],
      disks: [disk],
      timeoutSeconds: 400,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done\r?$/m, output);
    assert.equal([...output.matchAll(/^ok /gm)].length, taken.length);
  });
});
