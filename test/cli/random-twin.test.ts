/**
 * Random command lines of every kind beside the real LVM2: each must end with the same exit code and leave the same metadata on every
 * device, extent for extent. Words are compared elsewhere. The seed is printed; ORION_LVM_TWIN_SEED repeats a run, and
 * ORION_LVM_TWIN_RUNS makes a longer one. Needs root and lvm2 (test/setup).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { withDeviceTwins } from './pv-twin.ts';

const PVS = ['P0', 'P1', 'P2', 'P3'];

type Words = fc.Arbitrary<string>;

/** Parts that follow one another; what is empty leaves no space. */
function line(...parts: readonly (string | Words)[]): Words {
  const words = parts.map((part) => (typeof part === 'string' ? fc.constant(part) : part));
  return fc.tuple(...words).map((list) => list.filter((word) => word !== '').join(' '));
}

function maybe(words: Words, others = 2): Words {
  return fc.oneof({ weight: others, arbitrary: fc.constant('') }, words);
}

function oneOf(text: string): Words {
  return fc.constantFrom(...text.split(' | '));
}

const pv = fc.constantFrom(...PVS);
const pvs = fc.uniqueArray(pv, { minLength: 1, maxLength: 3 }).map((list) => list.join(' '));
const vg = oneOf('vg0 | vg0 | vg1');
const name = fc.nat(4).map((number) => `l${number}`);
const lv = fc.tuple(vg, name).map((parts) => parts.join('/'));
const tag = oneOf('t | u | x/y=z');
const alloc = maybe(
  oneOf('normal | contiguous | cling | cling_by_tags | anywhere | inherit').map((policy) => `--alloc ${policy}`),
);
const stripes = maybe(oneOf('-i2 | -i2 -I64 | -i3 -I16 | -i3 -I1m'));
const range = oneOf('P0 | P1 | P2 | P3 | P0:2-9 | P1:4- | P2:1+6:12-20 | P3:-7 | @t');
const ranges = maybe(fc.uniqueArray(range, { minLength: 1, maxLength: 3 }).map((list) => list.join(' ')));
const number = fc.integer({ min: 1, max: 24 });
const amount = fc.oneof(
  { weight: 3, arbitrary: number.map(String) },
  fc.tuple(fc.integer({ min: 1, max: 100 }), oneOf('FREE | VG | PVS')).map(([count, of]) => `${count}%${of}`),
);
const size = (sign: string): Words =>
  fc.oneof(
    { weight: 3, arbitrary: amount.map((count) => `-l ${sign}${count}`) },
    fc.integer({ min: 100, max: 5000 }).map((kib) => `-L ${sign}${kib}k`),
  );
const extent = oneOf('64k | 128k | 256k | 512k | 1m | 384k');
const yesOrNo = oneOf('y | n');
const vgProperty = fc.oneof(
  extent.map((value) => `-s ${value}`),
  tag.map((value) => `--addtag ${value}`),
  tag.map((value) => `--deltag ${value}`),
  oneOf('-l 3 | -l 0 | -p 3 | -p 0 | -x n | -x y | -x y | -u | --alloc cling | --alloc normal | --setautoactivation n'),
);
const lvProperty = fc.oneof(
  tag.map((value) => `--addtag ${value}`),
  tag.map((value) => `--deltag ${value}`),
  oneOf('-pr | -prw | -Cy | -Cn | -r 128 | -r auto | --alloc anywhere | --setautoactivation n'),
);
const pvLayout = maybe(
  oneOf('--metadatasize 300k | --dataalignment 256k | --pvmetadatacopies 2 | --pvmetadatacopies 0'),
  3,
);

const command: Words = fc.oneof(
  line('pvcreate', pvLayout, maybe(oneOf('-y | -ff -y')), pvs),
  line('pvremove', maybe(oneOf('-f | -y | -ff -y'), 3), pv),
  line(
    'pvchange',
    fc.oneof(
      yesOrNo.map((value) => `-x ${value}`),
      tag.map((value) => `--addtag ${value}`),
      tag.map((value) => `--deltag ${value}`),
    ),
    pvs,
  ),
  line('vgcreate -s', extent, alloc, pvLayout, vg, pvs),
  { weight: 2, arbitrary: line('vgextend', pvLayout, vg, pvs) },
  line('vgreduce', vg, pvs),
  { weight: 2, arbitrary: line('vgchange', vgProperty, vg) },
  line('vgrename', vg, vg),
  line('vgsplit', vg, vg, pvs),
  line('vgsplit -n', name, vg, vg),
  line('vgmerge', vg, vg),
  line(oneOf('vgexport | vgimport | vgimport | vgimport'), vg),
  {
    weight: 7,
    arbitrary: line(
      'lvcreate -an -Zn -n',
      name,
      size(''),
      stripes,
      alloc,
      maybe(oneOf('-pr | -ky | --addtag t | --type error | --type zero'), 6),
      vg,
      ranges,
    ),
  },
  { weight: 5, arbitrary: line(oneOf('lvextend | lvresize'), size('+'), stripes, alloc, lv, ranges) },
  { weight: 2, arbitrary: line('lvreduce -f', size('-'), lv) },
  line('lvrename', lv, name),
  { weight: 2, arbitrary: line('lvchange', lvProperty, lv) },
  { weight: 2, arbitrary: line('lvremove -f', lv) },
);

/** The same each time: what other seeds find is looked for on purpose, with many runs. */
const SEED = 20_261_123;

test('random command lines do what they do with LVM2', () =>
  withDeviceTwins([16, 24, 12, 32], async (twins) => {
    const seed = Number(process.env['ORION_LVM_TWIN_SEED'] ?? SEED);
    const numRuns = Number(process.env['ORION_LVM_TWIN_RUNS'] ?? 2);
    process.stdout.write(`ORION_LVM_TWIN_SEED=${seed}\n`);
    const lines = fc.array(command, { minLength: 30, maxLength: 30 });
    const property = fc.asyncProperty(lines, async (list) => {
      await twins.sameCode([`pvcreate -ff -y ${PVS.join(' ')}`, 'vgcreate -s 256k vg0 P0 P1 P2']);
      for (const [index, each] of list.entries()) {
        await twins.sameCode([each]);
        await assert.doesNotReject(twins.sameTexts(), `after ${list.slice(0, index + 1).join('\n')}`);
      }
    });
    await fc.assert(property, { seed, numRuns, endOnFailure: true });
  }));
