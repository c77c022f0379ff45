/**
 * The allocator by itself: orders of preference, policies, PV lists. That LVM2 places volumes in the same way is tested with
 * the commands (test/cli/lv-commands.test.ts).
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { allocate } from '../../src/lvm/allocate/allocate.ts';
import { freeSpace } from '../../src/lvm/allocate/free-areas.ts';
import { allCandidates, namedCandidates } from '../../src/lvm/allocate/pv-list.ts';
import { type Allocation, type AllocationRequest, DEFAULT_ALLOCATION } from '../../src/lvm/allocate/request.ts';
import { cutTo, sizeOf, withStripes } from '../../src/lvm/allocate/segments.ts';
import { shareClingTag } from '../../src/lvm/allocate/tags.ts';
import { allocationMapOf } from '../../src/lvm/allocation-map.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { group, linear, lv, pv, striped, vg } from './edit/groups.ts';

type Question = Partial<AllocationRequest> & Pick<AllocationRequest, 'vg' | 'extents'>;

function ask(question: Question): Allocation {
  const areas = question.areaCount ?? 1;
  return allocate({
    candidates: question.vg.physicalVolumes.map(({ label, tags }) => ({ label, tags, ranges: null })),
    policy: 'normal',
    areaCount: areas,
    areaMultiple: areas,
    extending: null,
    approximate: false,
    lvName: 'new',
    settings: DEFAULT_ALLOCATION,
    ...question,
  });
}

/** "pv0:0+5 pv1:3+5/pv2:3+5": pieces, areas side by side parted by slashes. */
function places({ rows }: Allocation): string {
  return rows.map(({ length, areas }) => areas.map((a) => `${a.name}:${a.extent}+${length}`).join('/')).join(' ');
}

function refused(question: Question): string {
  try {
    return places(ask(question));
  } catch (error) {
    assert(error instanceof CommandError);
    return error.lines.join('\n');
  }
}

describe('where a new volume goes', () => {
  test('to the first of equal PVs, from its low end', () => {
    assert.equal(places(ask({ vg: vg([pv(10), pv(10)]), extents: 4 })), 'pv0:0+4');
  });

  test('to the PV with the largest free area when it must be split', () => {
    assert.equal(places(ask({ vg: vg([pv(10), pv(20)]), extents: 25 })), 'pv1:0+20 pv0:0+5');
  });

  test('into the smallest hole of a PV that holds all of it', () => {
    const full = vg([pv(20)], [lv('a', linear('pv0', 5, 1)), lv('b', linear('pv0', 10, 1))]);
    assert.equal(places(ask({ vg: full, extents: 4 })), 'pv0:6+4');
  });

  test('stripes go on different PVs, the largest first', () => {
    const uneven = vg([pv(10), pv(30), pv(20)]);
    assert.equal(places(ask({ vg: uneven, extents: 20, areaCount: 2 })), 'pv0:0+10/pv1:0+10');
    assert.equal(places(ask({ vg: uneven, extents: 30, areaCount: 2 })), 'pv1:0+15/pv2:0+15');
  });

  test('anywhere puts stripes on one PV where there is no other', () => {
    const question = { vg: vg([pv(10)]), extents: 8, areaCount: 2 } as const;
    assert.equal(places(ask({ ...question, policy: 'anywhere' })), 'pv0:0+4/pv0:4+4');
    assert.match(
      refused(question),
      /^Insufficient suitable allocatable extents for logical volume new: 8 more required$/,
    );
  });

  test('contiguous means one piece', () => {
    const question = { vg: vg([pv(10), pv(10)]), extents: 15 } as const;
    assert.equal(
      refused({ ...question, policy: 'contiguous' }),
      'Insufficient suitable contiguous allocatable extents for logical volume new: 15 more required',
    );
    assert.equal(
      refused({ ...question, extents: 25 }),
      'Insufficient free space: 25 extents needed, but only 20 available',
    );
  });

  test('as much as there is will do when a part of the free space was asked for', () => {
    const { extents, rows } = ask({ vg: vg([pv(10), pv(10)]), extents: 30, approximate: true });
    assert.equal(extents, 20);
    assert.equal(rows.length, 2);
  });

  test('PVs beside which it must not be are avoided, extent by extent', () => {
    const avoid = [
      { startExtent: 0, extentCount: 4, pvs: ['pv0'] },
      { startExtent: 4, extentCount: 4, pvs: ['pv1'] },
    ];
    const question = { vg: vg([pv(10), pv(10)]), extents: 8, avoid } as const;
    assert.equal(places(ask(question)), 'pv1:0+4 pv0:0+4');
  });

  test('a number of extents that makes no whole stripes is refused', () => {
    assert.equal(
      refused({ vg: vg([pv(10), pv(10)]), extents: 5, areaCount: 2 }),
      'Number of extents requested (5) needs to be divisible by 2.',
    );
  });
});

describe('where an extension goes', () => {
  const old = lv('a', linear('pv1', 0, 5));

  test('right behind the last segment, else on the same PV, else elsewhere', () => {
    const free = vg([pv(30), pv(20)], [old]);
    assert.equal(places(ask({ vg: free, extents: 3, extending: old })), 'pv1:5+3');
    const blocked = vg([pv(30), pv(20)], [old, lv('b', linear('pv1', 5, 2))]);
    assert.equal(places(ask({ vg: blocked, extents: 3, extending: old })), 'pv1:7+3');
    assert.equal(places(ask({ vg: blocked, extents: 20, extending: old })), 'pv1:7+13 pv0:0+7');
  });

  test('contiguous only behind it, cling only on its PVs', () => {
    const blocked = vg([pv(30), pv(20)], [old, lv('b', linear('pv1', 5, 2))]);
    const question = { vg: blocked, extents: 14, extending: old } as const;
    assert.match(refused({ ...question, policy: 'contiguous' }), /14 more required/);
    assert.equal(
      refused({ ...question, policy: 'cling' }),
      'Insufficient suitable allocatable extents for logical volume new: 1 more required',
    );
  });

  test('cling may go to PVs that share a tag of the list', () => {
    const tagged = vg([pv(30, ['rack2']), pv(5, ['rack1']), pv(20, ['rack1'])], [old]);
    const settings = { maximiseCling: true, clingTagList: ['@rack1', '@rack2'] };
    assert.equal(places(ask({ vg: tagged, extents: 10, extending: old, policy: 'cling', settings })), 'pv2:0+10');
  });

  test('stripes continue each on its own PV', () => {
    const wide = lv(
      'a',
      striped(
        [
          ['pv1', 0],
          ['pv0', 0],
        ],
        4,
      ),
    );
    assert.equal(
      places(ask({ vg: vg([pv(10), pv(10)], [wide]), extents: 6, areaCount: 2, extending: wide })),
      'pv1:2+3/pv0:2+3',
    );
  });
});

describe('segments', () => {
  test('what continues the last segment is merged with it', () => {
    const old = lv('a', linear('pv0', 0, 5));
    const segments = withStripes(old, [{ length: 3, areas: [{ name: 'pv0', extent: 5 }] }], 0);
    assert.deepEqual(segments, [{ ...old.segments[0], extentCount: 8 }]);
    const locked = withStripes({ ...old, status: ['LOCKED'] }, [{ length: 3, areas: [{ name: 'pv0', extent: 5 }] }], 0);
    assert.equal(locked.length, 2);
  });

  test('stripes of another size are not', () => {
    const old = lv(
      'a',
      striped(
        [
          ['pv0', 0],
          ['pv1', 0],
        ],
        4,
      ),
    );
    const areas = [
      { name: 'pv0', extent: 2 },
      { name: 'pv1', extent: 2 },
    ];
    assert.equal(withStripes(old, [{ length: 1, areas }], 128).length, 1);
    assert.equal(withStripes(old, [{ length: 1, areas }], 256).length, 2);
  });

  test('cutting ends on whole rows of stripes', () => {
    const { segments } = lv(
      'a',
      striped(
        [
          ['pv0', 0],
          ['pv1', 0],
        ],
        8,
      ),
    );
    assert.equal(sizeOf(cutTo(segments, 6)), 6);
    assert.throws(() => cutTo(segments, 5), RangeError);
  });
});

test('tags of the cling tag list', () => {
  assert.equal(shareClingTag(['@a'], ['a', 'b'], ['a']), true);
  assert.equal(shareClingTag(['@a'], ['b'], ['b']), false);
  assert.equal(shareClingTag(['@*'], ['b', 'c'], ['c']), true);
  assert.equal(shareClingTag(['a', '', '@'], ['a'], ['a']), false);
});

describe('PV lists', () => {
  const own = group(vg([pv(100), pv(100, ['fast']), pv(100, [], [])], [lv('a', linear('pv0', 0, 100))]));
  const read = (...args: readonly string[]): { readonly said: readonly string[]; readonly chosen: string } => {
    const said: string[] = [];
    try {
      const list = namedCandidates(own, args, (line) => said.push(line));
      const chosen = list
        .map(
          ({ label, ranges }) => `${label}${(ranges ?? []).map(({ start, count }) => `:${start}+${count}`).join('')}`,
        )
        .join(' ');
      return { said, chosen };
    } catch (error) {
      assert(error instanceof CommandError);
      return { said, chosen: error.lines.join('\n') };
    }
  };

  test('ranges in all their forms', () => {
    assert.equal(read('/dev/pv1').chosen, 'pv1:0+100');
    assert.equal(read('/dev/pv1:5').chosen, 'pv1:5+1');
    assert.equal(read('/dev/pv1:5-9:20+10').chosen, 'pv1:5+5:20+10');
    assert.equal(read('/dev/pv1:90-').chosen, 'pv1:90+10');
    assert.equal(read('/dev/pv1:-9').chosen, 'pv1:0+10');
    assert.equal(read('/dev/pv1:+9').chosen, 'pv1:0+9');
    assert.equal(read('@fast').chosen, 'pv1:0+100');
  });

  test('what is refused', () => {
    assert.equal(read('/dev/pv1:9-5').chosen, 'PE range error: start extent 9 to end extent 5.');
    assert.equal(read('/dev/pv1:5-100').chosen, 'PE range error: start extent 5 to end extent 100.');
    assert.equal(read('/dev/pv1:5-x').chosen, 'Physical extent parsing error at x.');
    assert.equal(read('/dev/pv1:5-9:9').chosen, 'Overlapping PE ranges specified (9-9, 5-9) on /dev/pv1.');
    assert.equal(read('/dev/pv7').chosen, 'Physical Volume "/dev/pv7" not found in Volume Group "vg".');
    assert.equal(read('@none').chosen, 'No specified PVs have space available.');
    assert.deepEqual(read('@a b').said, ['Skipping invalid tag a b.']);
    assert.deepEqual(read('/dev/pv0').said, ['WARNING: No free extents on physical volume "/dev/pv0".']);
    assert.deepEqual(read('/dev/pv2').said, ['WARNING: Physical volume /dev/pv2 not allocatable.']);
  });

  test('without a list, all PVs that may be allocated from', () => {
    assert.deepEqual(
      allCandidates(own).map(({ label }) => label),
      ['pv0', 'pv1'],
    );
  });
});

test('whatever is allocated was free, is as much as said, and keeps stripes apart', () => {
  const policy = fc.constantFrom('contiguous', 'cling', 'normal', 'anywhere' as const);
  const used = fc.array(fc.tuple(fc.nat(3), fc.nat(30), fc.integer({ min: 1, max: 5 })), { maxLength: 8 });
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
      used,
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 3 }),
      policy,
      fc.boolean(),
      (sizes, holes, length, areaCount, chosen, approximate) => {
        const text = vg(
          sizes.map((size) => pv(size)),
          withoutOverlap(sizes, holes),
        );
        const before = freeSpace(allCandidates(group(text)), allocationMapOf(text).pvs);
        let found: Allocation;
        try {
          found = ask({ vg: text, extents: length * areaCount, areaCount, policy: chosen, approximate });
        } catch (error) {
          assert(error instanceof CommandError);
          return;
        }
        assert.equal(
          found.rows.reduce((sum, row) => sum + row.length * areaCount, 0),
          found.extents,
        );
        if (!approximate) assert.equal(found.extents, length * areaCount);
        const taken = new Set<string>();
        for (const { length: extents, areas } of found.rows) {
          assert.equal(areas.length, areaCount);
          if (chosen !== 'anywhere') assert.equal(new Set(areas.map((area) => area.name)).size, areaCount);
          for (const { name, extent } of areas) {
            for (let pe = extent; pe < extent + extents; pe++) {
              const isFree = before
                .find(({ label }) => label === name)
                ?.areas.some(({ start, count }) => start <= pe && pe < start + count);
              assert(isFree, `${name}:${pe} is not free`);
              assert(!taken.has(`${name}:${pe}`), `${name}:${pe} is taken twice`);
              taken.add(`${name}:${pe}`);
            }
          }
        }
      },
    ),
    { numRuns: 300 },
  );
});

/** LVs at some of the wanted places: those that lie on a PV and on no other LV. */
function withoutOverlap(
  sizes: readonly number[],
  wanted: readonly (readonly [number, number, number])[],
): ReturnType<typeof lv>[] {
  const used = new Set<string>();
  return wanted.flatMap(([index, start, length], i) => {
    const extents = Array.from({ length }, (_, k) => `${index}:${start + k}`);
    if (start + length > (sizes[index] ?? 0) || extents.some((extent) => used.has(extent))) return [];
    for (const extent of extents) used.add(extent);
    return [lv(`u${i}`, linear(`pv${index}`, start, length))];
  });
}
