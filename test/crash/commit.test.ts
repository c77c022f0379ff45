/**
 * Power cuts during every kind of commit: whatever the disks hold afterwards, a scan finds the volume group exactly as before or
 * exactly as after, and the next command works on it.
 *
 * ORION_CRASH_STATES raises the number of states per moment, ORION_CRASH_SEED chooses others.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { crashStates } from '../../src/block/power-cut.ts';
import { CASES, nextCommandWorks, PATHS, summary } from './cases.ts';
import { Machine } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_STATES'] ?? '12');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));

void describe(`power cuts, seed ${SEED}`, () => {
  for (const { name, prepare, cut } of CASES) {
    void test(name, async () => {
      const first = Machine.empty(PATHS.length);
      await prepare(first);
      const machine = new Machine(first.images());
      const before = summary(await machine.scan());
      await cut(machine);
      const after = summary(await machine.scan());
      assert.notEqual(machine.journal.writes, 0);
      let states = 0;
      const seen = { before: 0, after: 0 };
      for (const { images, description } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
        const byPath = new Map([...images].map(([device, image]) => [device.name, image]));
        const crashed = new Machine(byPath);
        const scan = await crashed.scan();
        const now = summary(scan);
        assert(
          scan.orphans.every((pv) => pv.found?.inUse === false),
          `${description}: a PV of no VG is in use`,
        );
        assert(now === before || now === after, `${description}\n${now}\nis neither\n${before}\nnor\n${after}`);
        seen[now === before ? 'before' : 'after']++;
        if (states++ % 3 !== 0) continue;
        try {
          await nextCommandWorks(crashed, scan.volumeGroups[0]?.vg.name ?? null);
        } catch (error) {
          throw new Error(`${description}: the next command fails: ${crashed.said.join('\n')}`, { cause: error });
        }
      }
      if (before !== after)
        assert(seen.before > 0 && seen.after > 0, `only one side of the cut: ${JSON.stringify(seen)}`);
    });
  }
});
