/** The limits of lvm.toml: what grows over one is refused, what is over it already is left alone. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { checkOwnLimits, type OwnLimits } from '../../../src/lvm/edit/limits.ts';
import { emptyPlan, type Plan } from '../../../src/lvm/edit/plan.ts';
import type { VolumeGroupText } from '../../../src/ondisk/metadata.ts';
import { group, linear, lv, pv, vg } from './groups.ts';

const NONE: OwnLimits = {
  physicalVolumeBytes: 0,
  pvsPerVg: 0,
  lvsPerVg: 0,
  extentsPerVg: 0,
  logicalVolumeBytes: 0,
};
const MIB = 2 ** 20;

function plan(before: VolumeGroupText | null, after: VolumeGroupText | null): Plan {
  return emptyPlan(before === null ? null : group(before), after);
}

function refused(what: Plan, limits: Partial<OwnLimits>): string | null {
  try {
    checkOwnLimits(what, { ...NONE, ...limits });
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const small = vg([pv(16)], [lv('a', linear('pv0', 0, 4))]);
const large = vg([pv(16), pv(16)], [lv('a', linear('pv0', 0, 8)), lv('b', linear('pv1', 0, 4))]);

/** Records of snapshots of LV a. */
function records(count: number): VolumeGroupText['logicalVolumes'] {
  return Array.from({ length: count }, (_, i) => ({
    ...lv(`snapshot${i}`),
    segments: [
      {
        type: 'snapshot' as const,
        startExtent: 0,
        extentCount: 4,
        tags: [],
        typeFlags: [],
        chunkSizeSectors: 8,
        origin: 'a',
        cowStore: 'b',
        merging: false,
        extra: [],
      },
    ],
  }));
}

describe('limits of lvm.toml', () => {
  test('of zero are none', () => {
    assert.equal(refused(plan(small, large), {}), null);
    assert.equal(refused(plan(null, large), {}), null);
  });

  test('are told with what they are of, what it would be, and the setting', () => {
    const over = 'of lvm.toml, which is';
    assert.equal(
      refused(plan(small, large), { pvsPerVg: 1 }),
      `Volume group vg: 2 physical volumes would exceed volume_group_max_pvs ${over} 1.`,
    );
    assert.equal(
      refused(plan(small, large), { lvsPerVg: 1 }),
      `Volume group vg: 2 logical volumes would exceed volume_group_max_lvs ${over} 1.`,
    );
    assert.equal(
      refused(plan(small, large), { extentsPerVg: 31 }),
      `Volume group vg: 32 extents would exceed volume_group_max_pes ${over} 31.`,
    );
    assert.equal(
      refused(plan(small, large), { logicalVolumeBytes: 6 * MIB }),
      `Logical volume vg/a: ${8 * MIB} bytes would exceed logical_volume_max_size ${over} ${6 * MIB}.`,
    );
  });

  test('are met by what is just as large', () => {
    const limits = { pvsPerVg: 2, lvsPerVg: 2, extentsPerVg: 32, logicalVolumeBytes: 8 * MIB };
    assert.equal(refused(plan(small, large), limits), null);
  });

  test('leave alone what is over them already, and let it shrink', () => {
    const limits = { pvsPerVg: 1, lvsPerVg: 1, extentsPerVg: 1, logicalVolumeBytes: MIB };
    assert.equal(refused(plan(large, { ...large, tags: ['t'] }), limits), null);
    assert.equal(refused(plan(large, small), limits), null);
    assert.equal(refused(plan(large, null), limits), null);
    assert.match(refused(plan(null, small), limits) ?? '', /16 extents would exceed/);
  });

  test('count the snapshots of an LV', () => {
    const none = { ...large, logicalVolumes: [...large.logicalVolumes] };
    const two = { ...large, logicalVolumes: [...large.logicalVolumes, ...records(2)] };
    assert.equal(refused(plan(none, two), { snapshotsPerLv: 2 }), null);
    assert.equal(
      refused(plan(none, two), { snapshotsPerLv: 1 }),
      'Logical volume vg/a: 2 snapshots would exceed logical_volume_snapshot_limit of lvm.toml, which is 1.',
    );
    assert.equal(refused(plan(two, { ...two, tags: ['t'] }), { snapshotsPerLv: 1 }), null);
  });

  test('count LVs that users see', () => {
    const [first, second] = large.logicalVolumes;
    assert(first !== undefined && second !== undefined);
    const hidden = { ...large, logicalVolumes: [first, { ...second, status: ['READ', 'WRITE'] }] };
    assert.equal(refused(plan(small, hidden), { lvsPerVg: 1 }), null);
  });

  test('hold for PVs that are made or resized', () => {
    const { device, ...found } = group(small).pvs[0]?.found ?? assert.fail();
    const label = { sector: 1, uuid: found.uuid, deviceSizeBytes: 64 * MIB, dataAreas: [], metadataAreas: [] };
    const rest = { extensionVersion: 2, extensionFlags: 0, bootloaderAreas: [] };
    const write = { device, label: { ...label, ...rest }, kind: 'create', zeroHead: true, ignoredAreas: [] } as const;
    const made: Plan = { ...plan(null, null), labels: [{ ...write, when: 'before' }] };
    assert.equal(refused(made, { physicalVolumeBytes: 64 * MIB }), null);
    assert.equal(
      refused(made, { physicalVolumeBytes: 63 * MIB }),
      `/dev/pv0: size: ${64 * MIB} bytes would exceed physical_volume_size_limit of lvm.toml, which is ${63 * MIB}.`,
    );
  });
});
