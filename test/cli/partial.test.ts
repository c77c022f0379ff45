/** Which volumes of a VG with a missing PV are partial, as the real LVM2 says it of the same images. Needs root and lvm2 (test/setup). */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { LABEL_SCAN_BYTES } from '../../src/ondisk/label.ts';
import { type Twins, withTwins } from './lv-twin.ts';

const REPORT = ['lvs', '-a', '--noheadings', '--separator', ',', '-o', 'lv_name,lv_health_status'];

/** Takes a PV away for both, and compares. */
async function without(twins: Twins, index: number): Promise<string> {
  const file = await open(twins.files[index] ?? '', 'r+');
  await file.write(Buffer.alloc(LABEL_SCAN_BYTES), 0, LABEL_SCAN_BYTES, 0);
  await file.close();
  const [command = '', ...args] = REPORT;
  const mine = await twins.ours(command, ...args);
  const seen = await twins.judge.run(command, ...args);
  assert.equal(mine.stdout, seen.stdout);
  return mine.stdout.replaceAll(/\s+/g, ' ').trim();
}

const commands: readonly string[] = [
  'lvcreate -an -Zn -l4 -n o vg P0',
  'lvcreate -s -kn -l3 -n s vg/o P1',
  'lvcreate -an -Zn -l4 -n cow vg P0',
  'lvcreate -an -Zn -l4 -n later vg P2',
  'lvconvert -y -s vg/later vg/cow',
  'lvcreate -an -Zn -l4 -i2 -n striped vg P0 P2',
];

describe('partial volumes', () => {
  for (const [index, expected] of [
    'cow,partial later, o,partial s, striped,partial',
    'cow, later, o,partial s,partial striped,',
    'cow,partial later,partial o, s, striped,partial',
  ].entries()) {
    test(`without PV ${index}`, () =>
      withTwins([32, 32, 32], ['-s', '1M'], async (twins) => {
        for (const line of commands) {
          const words = line
            .split(' ')
            .map((word) => word.replace(/^P(\d)$/, (_, n: string) => twins.files[Number(n)] ?? ''));
          const [command = '', ...args] = words;
          const { code, stderr } = await twins.ours(command, ...args);
          assert.equal(code, 0, `${line}: ${stderr}`);
        }
        assert.equal(await without(twins, index), expected);
      }));
  }
});
