/** The edits of LVs: what they make of a volume group, and what they refuse. Their agreement with LVM2 is tested with the commands. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { findPvByPath } from '../../../src/lvm/allocate/pv-list.ts';
import { DEFAULT_ALLOCATION } from '../../../src/lvm/allocate/request.ts';
import { CommandError } from '../../../src/lvm/edit/errors.ts';
import { changeLv, type LvProperty } from '../../../src/lvm/edit/lv-change.ts';
import { createLv, type LvCreateRequest } from '../../../src/lvm/edit/lv-create.ts';
import { generatedName, nameUse, reservedName } from '../../../src/lvm/edit/lv-names.ts';
import { Notes } from '../../../src/lvm/edit/lv-notes.ts';
import { removeHistoricalLv, removeLv } from '../../../src/lvm/edit/lv-remove.ts';
import { renameLv } from '../../../src/lvm/edit/lv-rename.ts';
import { resizeLv, type LvResizeRequest } from '../../../src/lvm/edit/lv-resize.ts';
import { validatePlan } from '../../../src/lvm/edit/validate.ts';
import type { LogicalVolumeText, Segment, VolumeGroupText } from '../../../src/ondisk/metadata.ts';
import { group, linear, lv, pv, striped, vg } from './groups.ts';

const notes = (): Notes => new Notes((sectors) => `${sectors}s`);

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof CommandError) return error.lines.join('\n');
    throw error;
  }
  return assert.fail('nothing was refused');
}

async function laterRefusal(work: () => Promise<unknown>): Promise<string> {
  try {
    await work();
  } catch (error) {
    if (error instanceof CommandError) return error.lines.join('\n');
    throw error;
  }
  return assert.fail('nothing was refused');
}

const plain: LvCreateRequest = {
  name: null,
  type: 'striped',
  size: { kind: 'extents', count: 4 },
  stripes: 1,
  stripeSizeSectors: 0,
  policy: 'inherit',
  pvs: [],
  findPv: findPvByPath,
  writable: true,
  readAhead: null,
  device: null,
  tags: [],
  skipActivation: false,
  noAutoActivate: false,
  zero: true,
  wipeSignatures: true,
  readOnlyVolumes: null,
  volumeList: null,
  hostTags: [],
  now: 1000,
  hostName: 'host',
  settings: DEFAULT_ALLOCATION,
};

function created(text: VolumeGroupText, request: Partial<LvCreateRequest>): LogicalVolumeText {
  const { plan, lvName } = createLv(group(text), { ...plain, ...request }, notes());
  const { after } = validatePlan(plan);
  const made = after?.logicalVolumes.find((candidate) => candidate.name === lvName);
  assert(made !== undefined);
  return made;
}

function effects(request: Partial<LvCreateRequest>): unknown {
  return createLv(group(vg([pv(10)])), { ...plain, ...request }, notes()).plan.effects;
}

describe('createLv', () => {
  test('a linear LV with everything that can be said of it', () => {
    const made = created(vg([pv(10)]), {
      name: 'data',
      readAhead: -1,
      device: { major: 253, minor: 7 },
      tags: ['a', 'b', 'a'],
      policy: 'cling',
      skipActivation: true,
      noAutoActivate: true,
      writable: false,
    });
    const { id, ...rest } = made;
    assert.match(id, /^\w{6}-/);
    assert.deepEqual(rest, {
      name: 'data',
      status: ['READ', 'FIXED_MINOR', 'VISIBLE'],
      flags: ['ACTIVATION_SKIP', 'NOAUTOACTIVATE'],
      tags: ['a', 'b'],
      creationTime: 1000,
      creationHost: 'host',
      allocationPolicy: 'cling',
      readAhead: -1,
      major: 253,
      minor: 7,
      segments: [linear('pv0', 0, 4)],
      extra: [],
    });
  });

  test('striped, error and zero', () => {
    const text = vg([pv(10), pv(10)]);
    const stripes = created(text, { stripes: 2, stripeSizeSectors: 128 });
    assert.deepEqual(stripes.segments, [
      striped(
        [
          ['pv0', 0],
          ['pv1', 0],
        ],
        4,
      ),
    ]);
    for (const type of ['error', 'zero'] as const) {
      const { segments } = created(text, { type, size: { kind: 'extents', count: 1000 } });
      assert.deepEqual(segments, [{ type, startExtent: 0, extentCount: 1000, tags: [], typeFlags: [], extra: [] }]);
    }
  });

  test('its head is wiped unless there are reasons not to', () => {
    const wipe = { kind: 'wipe-lv', lvName: 'lvol0', zeroBytes: 4096, signatures: true };
    assert.deepEqual(effects({}), [wipe]);
    assert.deepEqual(effects({ zero: false }), [{ ...wipe, zeroBytes: 0 }]);
    assert.deepEqual(effects({ zero: false, wipeSignatures: false }), []);
    assert.deepEqual(effects({ writable: false }), []);
    assert.deepEqual(effects({ type: 'error' }), []);
    assert.deepEqual(effects({ readOnlyVolumes: ['other', 'vg/lvol0'] }), []);
    assert.deepEqual(effects({ tags: ['t'], readOnlyVolumes: ['@t'] }), []);
    assert.deepEqual(effects({ volumeList: ['vg/lvol0'] }), [wipe]);
    const inactive = /Volume vg\/lvol0 is not active locally \(volume_list activation filter\?\)\./;
    assert.throws(() => effects({ volumeList: ['other'] }), inactive);
    assert.deepEqual(effects({ volumeList: ['other'], zero: false, wipeSignatures: false }), []);
    assert.throws(() => effects({ hostTags: ['h'] }), inactive);
    assert.deepEqual(effects({ hostTags: ['h'], tags: ['h'] }), [wipe]);
    assert.deepEqual(effects({ hostTags: ['h'], tags: ['h'], volumeList: ['@*'] }), [wipe]);
  });

  test('limits and names in use are refused', () => {
    const full = vg([pv(10)], [lv('a', linear('pv0', 0, 9))], { maxLv: 1 });
    const fails = (request: Partial<LvCreateRequest>, text = full): string =>
      refusal(() => createLv(group(text), { ...plain, ...request }, notes()));
    assert.equal(fails({ name: 'a' }), 'Logical Volume "a" already exists in volume group "vg"');
    assert.equal(fails({}), 'Volume group "vg" has insufficient free space (1 extents): 4 required.');
    const one = { kind: 'extents', count: 1 } as const;
    assert.match(fails({ size: one }), /^Maximum number of logical volumes \(1\) reached in volume group vg$/);
    assert.match(
      fails({ stripes: 2, size: one }),
      /^Number of stripes \(2\) must not exceed number of physical volumes \(1\)$/,
    );
    assert.match(
      fails({ size: { kind: 'sectors', sectors: 2 ** 50 } }),
      /^Volume too large \(\d+s\) for extent size 2048s\./,
    );
    assert.match(
      fails({ size: { kind: 'percent', percent: 5, of: 'FREE' } }),
      /^Calculated size of logical volume is 0/,
    );
    const remembered = { label: 'old', id: 'x', descendants: [], extra: [] };
    const haunted = vg([pv(10)], [], { historicalLogicalVolumes: [remembered] });
    assert.match(fails({ name: 'old' }, haunted), /^historical Logical Volume "old" already exists/);
  });

  test('rounding is told, also when the command then fails', () => {
    const said = notes();
    const request = {
      ...plain,
      size: { kind: 'sectors', sectors: 2049 } as const,
      stripes: 3,
      stripeSizeSectors: 4096,
    };
    refusal(() => createLv(group(vg([pv(10)])), request, said));
    assert.deepEqual(
      said.messages.map(({ text }) => text),
      [
        'Rounding up size to full physical extent 4096s',
        'Reducing requested stripe size 4096s to maximum, physical extent size 2048s.',
        'Rounding size 4096s (2 extents) up to stripe boundary size 6144s (3 extents).',
      ],
    );
  });
});

test('names: made up, in use, reserved', () => {
  const text = vg([pv(10)], [lv('lvol3'), lv('lvol7_tmeta'), lv('lvolx'), lv('other12')]);
  assert.equal(generatedName(text, 'lvol'), 'lvol8');
  assert.equal(generatedName(vg([pv(1)]), 'lvol'), 'lvol0');
  assert.equal(nameUse(text, 'lvol3'), 'live');
  assert.equal(nameUse(text, 'lvol4'), null);
  assert.match(reservedName('snapshot1') ?? '', /^Names starting "snapshot" are reserved/);
  assert.match(reservedName('x_rimage_0') ?? '', /^Names including "_rimage" are reserved/);
  assert.equal(reservedName('mysnapshot'), null);
});

const resize: LvResizeRequest = {
  lvName: 'a',
  direction: 'any',
  size: { kind: 'extents', sign: '', count: 8, percentOf: null },
  type: null,
  stripes: 0,
  stripeSizeSectors: 0,
  defaultStripeSectors: 128,
  mirrors: 0,
  policy: null,
  pvs: [],
  findPv: findPvByPath,
  resizeFs: false,
  issueDiscards: false,
  settings: DEFAULT_ALLOCATION,
};

type Size = LvResizeRequest['size'];

function size(count: number, sign: '' | '+' | '-' = '', percentOf: 'LV' | null = null): Size {
  return { kind: 'extents', sign, count, percentOf };
}

/** A hidden LV of two extents. */
function hidden(name: string, at: number): LogicalVolumeText {
  return { ...lv(name, linear('pv0', at, 2)), status: ['READ', 'WRITE'] };
}

describe('resizeLv', () => {
  const text = vg(
    [pv(20), pv(20)],
    [
      lv('a', linear('pv0', 0, 4)),
      lv(
        's',
        striped(
          [
            ['pv0', 4],
            ['pv1', 4],
          ],
          8,
        ),
      ),
    ],
  );
  const resized = (request: Partial<LvResizeRequest>): readonly Segment[] => {
    const { plan } = resizeLv(group(text), { ...resize, ...request }, notes());
    assert(plan !== null);
    const name = request.lvName ?? 'a';
    return validatePlan(plan).after?.logicalVolumes.find((candidate) => candidate.name === name)?.segments ?? [];
  };

  test('more and less', () => {
    assert.deepEqual(resized({ size: size(2, '-') }), [linear('pv0', 0, 2)]);
    const grown = resized({ size: size(8) });
    assert.deepEqual(
      grown.map((segment) => segment.extentCount),
      [4, 4],
    );
  });

  test('whole rows of stripes', () => {
    const [more] = resized({ lvName: 's', size: size(3, '+') });
    assert.equal(more?.extentCount, 12);
    const [less] = resized({ lvName: 's', size: size(3, '-') });
    assert.equal(less?.extentCount, 6);
  });

  test('directions, limits and nonsense are refused', () => {
    const own = group(text);
    const fails = (request: Partial<LvResizeRequest>): string =>
      refusal(() => resizeLv(own, { ...resize, ...request }, notes()));
    assert.match(fails({ lvName: 'x' }), /^Logical volume x not found in volume group vg\.$/);
    assert.match(fails({ size: size(4) }), /^New size \(4 extents\) matches existing size \(4 extents\)\.$/);
    assert.match(fails({ direction: 'extend', size: size(3) }), /not larger than existing size/);
    assert.match(fails({ direction: 'reduce', size: size(5) }), /not less than existing size/);
    assert.match(fails({ size: size(4, '-') }), /^Unable to reduce vg\/a below 1 extent\.$/);
    assert.match(fails({ size: size(2 ** 32 - 4, '+') }), /exceeds limit \(4294967295\)\.$/);
    assert.match(fails({ mirrors: 2, size: size(1, '+') }), /^Cannot vary number of mirrors in LV yet\.$/);
    assert.match(
      fails({ stripes: 2, stripeSizeSectors: 24, size: size(2, '+') }),
      /^Stripe size must be power of 2\.$/,
    );
  });

  test('LVs that are more than their own extents are refused', () => {
    const mirror: Segment = {
      type: 'mirror',
      startExtent: 0,
      extentCount: 2,
      areas: [
        { name: 'm_mimage_0', extent: 0 },
        { name: 'm_mimage_1', extent: 0 },
      ],
      tags: [],
      typeFlags: [],
      extra: [],
    };
    const mirrored = vg([pv(20)], [lv('m', mirror), hidden('m_mimage_0', 0), hidden('m_mimage_1', 2)]);
    const fails = (name: string): string =>
      refusal(() => resizeLv(group(mirrored), { ...resize, lvName: name }, notes()));
    assert.match(fails('m'), /^Cannot resize logical volume vg\/m: LV type mirror is not supported yet\.$/);
    assert.match(fails('m_mimage_0'), /^Can't resize internal logical volume vg\/m_mimage_0\.$/);
  });
});

/** A thin pool `p` with a thin LV, a RAID1 `r`, an origin `o` with a snapshot `s`, and a plain LV `a`. */
function zoo(): VolumeGroupText {
  const common = { startExtent: 0, extentCount: 2, tags: [], typeFlags: [], extra: [] };
  const raid: Segment = {
    ...common,
    type: 'raid',
    raidType: 'raid1',
    regionSizeSectors: 4096,
    images: [0, 1].map((i) => ({ metadata: `r_rmeta_${i}`, data: `r_rimage_${i}` })),
  };
  const pool: Segment = {
    ...common,
    type: 'thin-pool',
    metadata: 'p_tmeta',
    pool: 'p_tdata',
    transactionId: 1,
    chunkSizeSectors: 128,
    zeroNewBlocks: true,
    messages: [],
  };
  const thin: Segment = { ...common, type: 'thin', thinPool: 'p', transactionId: 0, deviceId: 1 };
  const snapshot: Segment = {
    ...common,
    type: 'snapshot',
    chunkSizeSectors: 8,
    origin: 'o',
    cowStore: 's',
    merging: false,
  };
  return vg(
    [pv(60)],
    [
      lv('a', linear('pv0', 0, 2)),
      lv('o', linear('pv0', 2, 2)),
      hidden('s', 4),
      lv('snapshot0', snapshot),
      lv('r', raid),
      hidden('r_rimage_0', 6),
      hidden('r_rimage_1', 8),
      hidden('r_rmeta_0', 10),
      hidden('r_rmeta_1', 12),
      lv('p', pool),
      hidden('p_tdata', 14),
      hidden('p_tmeta', 16),
      hidden('lvol0_pmspare', 18),
      lv('t', thin),
    ],
  );
}

function yes(): Promise<boolean> {
  return Promise.resolve(true);
}

function no(): Promise<boolean> {
  return Promise.resolve(false);
}

function left(text: VolumeGroupText): string {
  return text.logicalVolumes.map(({ name }) => name).join(' ');
}

describe('removeLv', () => {
  test('an LV with its parts', async () => {
    const { vg: after, lines, removed } = await removeLv(zoo(), 'r', yes);
    assert.deepEqual(lines, ['Logical volume "r" successfully removed.']);
    assert.equal(removed.length, 5);
    assert.equal(left(after), 'a o s snapshot0 p p_tdata p_tmeta lvol0_pmspare t');
  });

  test('an origin with its snapshots, a snapshot alone', async () => {
    const alone = await removeLv(zoo(), 's', yes);
    assert.equal(left(alone.vg).startsWith('a o r '), true);
    const both = await removeLv(zoo(), 'o', yes);
    assert.deepEqual(both.lines, [
      'Logical volume "s" successfully removed.',
      'Logical volume "o" successfully removed.',
    ]);
    assert.equal(left(both.vg).startsWith('a r '), true);
  });

  test('a pool with its thin LVs and the spare, after a question', async () => {
    const questions: string[] = [];
    const { vg: after } = await removeLv(zoo(), 'p', (question) => {
      questions.push(question);
      return yes();
    });
    assert.deepEqual(questions, ['Removing pool vg/p will remove 1 dependent volume(s). Proceed? [y/n]: ']);
    assert.equal(left(after), 'a o s snapshot0 r r_rimage_0 r_rimage_1 r_rmeta_0 r_rmeta_1');
    assert.equal(await laterRefusal(() => removeLv(zoo(), 'p', no)), 'Logical volume vg/p not removed.');
  });

  test('what can only go with something else is refused', async () => {
    const fails = (name: string, text = zoo()): Promise<string> => laterRefusal(() => removeLv(text, name, yes));
    assert.match(await fails('nosuch'), /^Failed to find logical volume "vg\/nosuch"$/);
    assert.match(await fails('r_rimage_0'), /^Can't remove logical volume vg\/r_rimage_0 used as RAID device\.$/);
    assert.match(await fails('p_tdata'), /^Can't remove logical volume vg\/p_tdata used by a pool\.$/);
    assert.match(await fails('t'), /^Cannot remove thin volume vg\/t from pool vg\/p/);
    const [first, ...rest] = zoo().logicalVolumes;
    assert(first !== undefined);
    const locked = { ...zoo(), logicalVolumes: [{ ...first, status: [...first.status, 'LOCKED'] }, ...rest] };
    assert.match(await fails('a', locked), /^Can't remove locked logical volume vg\/a\.$/);
  });

  test('a remembered LV, and what was tied to it', () => {
    const text = vg([pv(10)], [], {
      historicalLogicalVolumes: [
        { label: 'a', id: 'x', descendants: ['-b'], extra: [] },
        { label: 'b', id: 'y', origin: '-a', descendants: ['live'], extra: [] },
      ],
    });
    const { vg: after, lines } = removeHistoricalLv(text, 'a');
    assert.deepEqual(lines, ['Historical logical volume "a" successfully removed.']);
    assert.deepEqual(after.historicalLogicalVolumes, [{ label: 'b', id: 'y', descendants: ['live'], extra: [] }]);
  });
});

function renamed(from: string, to: string): string {
  const { after } = renameLv(group(zoo()), { from, to, historical: false }, notes());
  return left(after ?? zoo());
}

describe('renameLv', () => {
  test('an LV, its parts, and all that names them', () => {
    assert.match(renamed('r', 'x'), / x x_rimage_0 x_rimage_1 x_rmeta_0 x_rmeta_1 /);
    const { after } = renameLv(group(zoo()), { from: 'r', to: 'x', historical: false }, notes());
    const raid = after?.logicalVolumes.find(({ name }) => name === 'x')?.segments[0];
    assert(raid?.type === 'raid');
    assert.deepEqual(raid.images[1], { metadata: 'x_rmeta_1', data: 'x_rimage_1' });
    const snapshots = renameLv(group(zoo()), { from: 'o', to: 'x', historical: false }, notes()).after;
    const record = snapshots?.logicalVolumes.find(({ name }) => name === 'snapshot0')?.segments[0];
    assert(record?.type === 'snapshot');
    assert.equal(record.origin, 'x');
  });

  test('a thin LV leaves its pool alone; a pool takes its parts along', () => {
    assert.match(renamed('t', 'x'), / p p_tdata p_tmeta lvol0_pmspare x$/);
    assert.match(renamed('p', 'x'), / x x_tdata x_tmeta lvol0_pmspare t$/);
  });

  test('names in use, hidden LVs and parts that are called otherwise are refused', () => {
    const own = group(zoo());
    const fails = (from: string, to: string): string =>
      refusal(() => renameLv(own, { from, to, historical: false }, notes()));
    assert.match(fails('a', 'o'), /^Logical Volume "o" already exists in volume group "vg"$/);
    assert.match(fails('nosuch', 'x'), /^Existing logical volume "nosuch" not found in volume group "vg"$/);
    assert.match(fails('p_tdata', 'x'), /^Cannot rename internal LV "p_tdata"\.$/);
    assert.match(fails('r_rimage_0', 'x'), /^Cannot rename a RAID image directly$/);
  });
});

describe('changeLv', () => {
  const text = vg([pv(10)], [{ ...lv('a', linear('pv0', 0, 2)), tags: ['old'] }]);
  const change = (...properties: readonly LvProperty[]): ReturnType<typeof changeLv> =>
    changeLv(group(text), 'a', properties, notes());

  test('every property and back', () => {
    const there = change(
      { kind: 'addtag', tags: ['new', 'old'] },
      { kind: 'deltag', tags: ['old'] },
      { kind: 'alloc', policy: 'contiguous' },
      { kind: 'permission', writable: false },
      { kind: 'readahead', sectors: 128 },
      { kind: 'setactivationskip', on: true },
      { kind: 'setautoactivation', on: false },
      { kind: 'persistent', device: { major: 253, minor: 5 } },
    );
    const changed = there.plan?.after?.logicalVolumes[0];
    assert(changed !== undefined && there.refused.length === 0);
    assert.deepEqual(
      [changed.tags, changed.status, changed.flags],
      [['new'], ['READ', 'FIXED_MINOR', 'VISIBLE'], ['ACTIVATION_SKIP', 'NOAUTOACTIVATE']],
    );
    const back = changeLv(
      group({ ...text, logicalVolumes: [changed] }),
      'a',
      [
        { kind: 'addtag', tags: ['old'] },
        { kind: 'deltag', tags: ['new'] },
        { kind: 'alloc', policy: 'inherit' },
        { kind: 'permission', writable: true },
        { kind: 'readahead', sectors: null },
        { kind: 'setactivationskip', on: false },
        { kind: 'setautoactivation', on: true },
        { kind: 'persistent', device: null },
      ],
      notes(),
    );
    assert.deepEqual(back.plan?.after?.logicalVolumes, text.logicalVolumes);
  });

  test('what is so already is refused, the rest is done', () => {
    const { plan, refused, messages } = change(
      { kind: 'alloc', policy: 'inherit' },
      { kind: 'permission', writable: true },
      { kind: 'readahead', sectors: null },
      { kind: 'persistent', device: null },
      { kind: 'addtag', tags: ['x'] },
    );
    assert.deepEqual(refused, [
      'Allocation policy of logical volume vg/a is already inherit.',
      'Logical volume vg/a is already writable.',
      'Read ahead is already auto for vg/a.',
      'Minor number is already not persistent for vg/a.',
    ]);
    assert.deepEqual(plan?.after?.logicalVolumes[0]?.tags, ['old', 'x']);
    assert.deepEqual(
      messages.map((message) => message.text),
      ['Logical volume vg/a changed.'],
    );
    assert.equal(change({ kind: 'setautoactivation', on: true }).plan, null);
  });
});
