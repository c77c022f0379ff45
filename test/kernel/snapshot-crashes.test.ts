/** After a power cut the kernel's dm-snapshot reads our stores as we do: for a sample of the states that a cut can leave. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { MemoryDevice } from '../../src/block/memory.ts';
import { crashStates } from '../../src/block/power-cut.ts';
import { contentOf, Family } from '../dm/snapshot-harness.ts';
import { Scenario } from '../dm/snapshot-scenario.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

const STATES = 60;

interface Sample {
  readonly origin: Buffer;
  readonly cow: Buffer;
  readonly chunkSize: number;
  /** Of the snapshot as we read it, or "Invalid". */
  readonly sha256: string;
}

function memory(name: string, image: Buffer): MemoryDevice {
  const device = new MemoryDevice({ name, sizeBytes: image.length });
  device.poke(0, image);
  return device;
}

async function readByUs(origin: Buffer, cow: Buffer, chunkSize: number): Promise<string> {
  const family = new Family(memory('real', origin));
  const content = await contentOf(await family.snapshot({ name: 's', cow: memory('cow', cow), chunkSize }));
  await family.close();
  return content === null ? 'Invalid' : createHash('sha256').update(content).digest('hex');
}

/** States of two scenarios, one of which runs full, spread over all moments. */
async function samples(): Promise<readonly Sample[]> {
  const all: Sample[] = [];
  for (const [seed, cowSectors] of [
    [11, 700],
    [12, 72],
  ] as const) {
    const scenario = new Scenario(128, seed);
    await scenario.snapshot('a', 8, cowSectors, true);
    const { since, spec } = scenario.shots[0]!;
    await scenario.write(6, 4, ['origin', 'a']);
    await scenario.family.close();
    for (const state of crashStates(scenario.journal, { statesPerMoment: 3, seed })) {
      if (Number(/entry (\d+)/.exec(state.description)?.[1]) < since) continue;
      const origin = state.images.get(scenario.real)!;
      const cow = state.images.get(spec.cow)!;
      all.push({ origin, cow, chunkSize: 8, sha256: await readByUs(origin, cow, 8) });
    }
  }
  return all.filter((_, index) => index % Math.ceil(all.length / STATES) === 0);
}

test('the kernel reads what power cuts left of our snapshots', async () => {
  await withTemporaryFolder(async (folder) => {
    const taken = await samples();
    assert(taken.length > STATES / 2 && taken.some(({ sha256 }) => sha256 === 'Invalid'));
    const lines: string[] = [];
    let sector = 0;
    for (const { origin, cow, chunkSize, sha256 } of taken) {
      lines.push(`${sector} ${origin.length / 512} ${cow.length / 512} ${chunkSize} ${sha256}`);
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
