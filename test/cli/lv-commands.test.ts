/**
 * lvcreate, lvremove, lvextend, lvreduce, lvresize, lvrename and lvchange beside the real LVM2: the same command lines on twins
 * must give the same output, exit code and volumes, and LVM2 must accept what we wrote.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { type Twins, withTwins } from './lv-twin.ts';

/** A command line with P0, P1 … for the PVs. */
async function each(twins: Twins, lines: readonly string[]): Promise<void> {
  for (const line of lines) {
    const words = line.split(' ').map((word) => word.replace(/^P(\d)/, (_, n: string) => twins.files[Number(n)] ?? ''));
    const [command = '', ...args] = words;
    await twins.same(command, ...args);
  }
  await twins.sameVolumes();
}

const REFUSED: readonly string[] = [
  'lvcreate -an -l5%LV vg',
  'lvcreate -an -l5%LV nosuch',
  'lvcreate -an -l5%FOO vg',
  'lvcreate -an -lx vg',
  'lvcreate -an -l0%FREE vg',
  'lvcreate -an -L-.1 vg',
  'lvcreate -an -L..1 vg',
  'lvcreate -an -L+-10 vg',
  'lvcreate -an -L10000000000000000000 vg',
  'lvcreate -an -l4 -i0 vg',
  'lvcreate -an -l4 -i-1 vg',
  'lvcreate -an -l4 -i2 -I-4 vg',
  'lvcreate -an -l4 -I64 vg',
  'lvcreate -an -l4 -y -y vg',
  'lvcreate -an -l4 -i2 -I3 vg',
  'lvcreate -an -l4 -i129 vg',
  'lvcreate -an -l4 -i2 --type linear vg',
  'lvcreate -an -l4 vg/x',
  'lvcreate -an -l4 vg -n vg2/x',
  'lvcreate -an -l4 -n a -r foo vg',
  'lvcreate -an -l4 -n b --addtag a,b vg',
  'lvcreate -an -l4 -n c --alloc foo vg',
  'lvcreate -an -l4 -n c --minor 9999999 vg',
  'lvcreate -an -l4 -n c -My vg',
  'lvcreate -an -l4 -n c -Mn --minor 5 vg',
  'lvcreate -an -l4 -n d vg P0 P0',
  'lvcreate -an -l4 -n d vg @nosuch',
  'lvcreate -an -l4 -n d vg P0:5-x',
  'lvcreate -an -l4 -n d vg P0:5-300',
  'lvcreate -an -l70 -n e -C y vg',
  'lvcreate -an -l70 -n e -C y --alloc normal vg',
  'lvcreate -an -l30 -i2 -n f vg P1',
  'lvcreate -an -l3000 -n f vg',
  'pvmove P0:0-3:2-5',
  'pvmove P0:0-3:3 P1',
  'lvcreate -an -l1 -n pvmove1 vg',
  'lvcreate -an -l1 -n a_rimage_1 vg',
  'lvcreate -an -l1 -n a! vg',
  'lvcreate -an -l1 nosuch',
  'lvcreate -an -l1 -n c --type error vg P0',
];

const CHANGES: readonly string[] = [
  'lvcreate -an -Zn -L+4M vg',
  'lvcreate -an -l4 -i+2 vg',
  'lvcreate -an -l4 -m0 -n m0 vg',
  'lvcreate -an -l4 -m0 -I64 -n m1 vg',
  'lvcreate -an -l4 --type striped -I64 -n m2 vg',
  'lvcreate -an -l4 -n a -r 1024 vg',
  'lvcreate -an -l4 -n a1 -r 3 vg',
  'lvcreate -an -l4 -n b --addtag @t --addtag u --addtag t vg',
  'lvcreate -an -l4 -n c -My --minor 5 --alloc cling_by_tags vg',
  'lvcreate -an -l4 -n d2 vg P1:20-',
  'lvcreate -an -L1500k -Zy -n er --type error vg',
  'lvcreate -an -L1500k -n ro -pr vg',
  'lvcreate -an -L1500k -n ky -ky vg',
  'lvextend -L3M vg/a',
  'lvextend -L+0 vg/a',
  'lvextend -l+1 -L+4M vg/a',
  'lvextend -l+1 vg/nosuch',
  'lvextend -l+3 vg/a P1',
  'lvextend -i2 -I64 -l+3 vg/a',
  'lvextend -l+4 vg/a',
  'lvresize -l50%VG vg/b',
  'lvresize -l200%VG vg/b P2',
  'lvreduce -f -L-1500k vg/b',
  'lvreduce -f -l50%LV vg/b',
  'lvreduce -L-400M vg/b',
  'lvextend --type zero -l+1 vg/b',
  'lvrename vg b b',
  'lvrename vg/b vg/a',
  'lvrename vg/b vg2/x',
  'lvrename vg b bb',
  'lvchange -pr -Cy --addtag x vg/bb',
  'lvchange -pr vg/bb',
  'lvchange -r 128 -ky --setautoactivation n vg/bb',
  'lvchange -My --minor 77 vg/bb',
  'lvchange -Mn vg/bb',
  'lvchange -pr @x',
  'lvchange -pr vg/nosuch',
  'lvremove vg/a vg/nosuch',
  'lvremove @t nosuch',
  'lvremove -f vg',
];

describe('the same command lines as LVM2', () => {
  test('what is refused changes nothing', () =>
    withTwins([32, 32, 32], ['-s', '1M'], async (twins) => {
      await each(twins, REFUSED);
      await twins.accepted();
    }));

  test('what is done', () =>
    withTwins([32, 32, 32], ['-s', '1M'], async (twins) => {
      await each(twins, CHANGES);
      await twins.accepted();
    }));
});

type Step = readonly string[];
const extents = fc.integer({ min: 1, max: 40 }).map((count) => ['-l', String(count)]);
const percent = fc
  .tuple(fc.integer({ min: 5, max: 100 }), fc.constantFrom('FREE', 'PVS', 'VG'))
  .map(([count, of]) => ['-l', `${count}%${of}`]);
const bytes = fc.integer({ min: 100, max: 4000 }).map((kib) => ['-L', `${kib}k`]);
const size = fc.oneof({ weight: 3, arbitrary: extents }, percent, bytes);
const signed = (sign: string): fc.Arbitrary<Step> =>
  fc.tuple(size, fc.boolean()).map(([[option = '', value = ''], add]) => [option, add ? `${sign}${value}` : value]);
const alloc = fc.oneof(
  { weight: 2, arbitrary: fc.constant([]) },
  fc.constantFrom('contiguous', 'cling', 'normal', 'anywhere').map((policy) => ['--alloc', policy]),
);
const stripes = fc.oneof(
  { weight: 3, arbitrary: fc.constant([]) },
  fc.integer({ min: 1, max: 3 }).map((count) => ['-i', String(count), '-I', '64k']),
);
const range = fc.constantFrom('', '', ':3-12', ':2+6:20-', ':-9');
const pvs = fc.oneof(
  { weight: 2, arbitrary: fc.constant([]) },
  fc
    .uniqueArray(fc.nat(3), { minLength: 1, maxLength: 3 })
    .chain((list) => fc.tuple(...list.map((i) => range.map((text) => `P${i}${text}`)))),
);
const name = fc.nat(5).map((i) => `l${i}`);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(name, size, alloc, stripes, pvs)
      .map(([lv, ...rest]) => ['lvcreate', '-an', '-Zn', '-n', lv, 'vg'].concat(...rest)),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(name, signed('+'), alloc, stripes, pvs)
      .map(([lv, ...rest]) => ['lvextend', `vg/${lv}`].concat(...rest)),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(name, signed('-')).map(([lv, change]) => ['lvreduce', '-f', `vg/${lv}`].concat(change)),
  },
  { weight: 1, arbitrary: name.map((lv) => ['lvremove', '-f', `vg/${lv}`]) },
);

test('random sequences put volumes where LVM2 puts them', { timeout: 240_000 }, () =>
  fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 6, max: 20 }), { minLength: 4, maxLength: 4 }),
      fc.array(step, { minLength: 10, maxLength: 25 }),
      (sizes, steps) =>
        withTwins(sizes, ['-s', '256k'], async (twins) => {
          for (const words of steps) await each(twins, [words.join(' ')]);
          await twins.accepted();
        }),
    ),
    { numRuns: Number(process.env['ORION_LVM_RUNS'] ?? 2), endOnFailure: true },
  ),
);

test('no command line starts what LVM2 would refuse to finish: everything in test mode', () =>
  withTwins([32, 32], ['-s', '1M'], async (twins) => {
    await twins.same('lvcreate', '-an', '-Zn', '-l4', '-n', 'a', 'vg');
    for (const line of ['lvcreate -l4 -n b vg', 'lvextend -l+1 vg/a', 'lvremove -f vg/a', 'lvchange -pr vg/a']) {
      const [command = '', ...args] = line.split(' ');
      const answer = await twins.ours(command, '-t', ...args);
      assert.equal(answer.code, 0, answer.stderr);
      assert.match(answer.stderr, /^ {2}TEST MODE: /);
    }
    await twins.sameVolumes();
    await twins.accepted();
  }));
