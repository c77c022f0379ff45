/** lv_ancestors and lv_descendants where no LVM2 can judge: origins that close a loop, names that nothing bears. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ancestors, descendants } from '../../src/cli/report/fields/lv-lineage.ts';
import type { LogicalVolumeText, VolumeGroupText } from '../../src/ondisk/metadata.ts';

function thin(name: string, origin?: string): LogicalVolumeText {
  const segment = {
    type: 'thin',
    startExtent: 0,
    extentCount: 1,
    tags: [],
    typeFlags: [],
    extra: [],
    thinPool: 'pool',
    transactionId: 1,
    deviceId: 1,
    ...(origin === undefined ? {} : { origin }),
  } as const;
  return { name, id: name, status: ['VISIBLE'], flags: [], tags: [], segments: [segment], extra: [] };
}

function group(
  lvs: readonly LogicalVolumeText[],
  history: VolumeGroupText['historicalLogicalVolumes'] = [],
): VolumeGroupText {
  return {
    name: 'vg',
    id: 'vg',
    seqno: 1,
    status: [],
    flags: [],
    tags: [],
    extentSizeSectors: 8192,
    maxLv: 0,
    maxPv: 0,
    physicalVolumes: [],
    logicalVolumes: lvs,
    historicalLogicalVolumes: history,
    extra: [],
  };
}

const PLAIN = { full: false, showRemoved: false } as const;
const FULL = { full: true, showRemoved: true } as const;

describe('lineage', () => {
  test('a loop of origins ends where it closes', () => {
    const vg = group([thin('a', 'c'), thin('b', 'a'), thin('c', 'b')]);
    assert.deepEqual(ancestors(vg, { live: 'a' }, PLAIN), ['c', 'b']);
    assert.deepEqual(descendants(vg, { live: 'a' }, PLAIN), ['b', 'c']);
  });
  test('an origin that is not there is named, and has no ancestors', () => {
    const vg = group([thin('a', 'gone')]);
    assert.deepEqual(ancestors(vg, { live: 'a' }, PLAIN), ['gone']);
    assert.deepEqual(descendants(vg, { live: 'nothing' }, FULL), []);
  });
  test('removed LVs stand between the living', () => {
    const removed = { id: 'r', extra: [] };
    const vg = group(
      [thin('a'), thin('d')],
      [
        { ...removed, label: 'b', origin: 'a', descendants: [] },
        { ...removed, label: 'c', origin: '-b', descendants: ['d'] },
      ],
    );
    assert.deepEqual(ancestors(vg, { live: 'd' }, FULL), ['-c', '-b', 'a']);
    assert.deepEqual(ancestors(vg, { live: 'd' }, { ...FULL, showRemoved: false }), ['a']);
    assert.deepEqual(ancestors(vg, { live: 'd' }, PLAIN), []);
    assert.deepEqual(descendants(vg, { live: 'a' }, FULL), ['-b', '-c', 'd']);
  });
  test('a history that turns in a circle ends', () => {
    const removed = { id: 'r', extra: [], descendants: [] };
    const vg = group(
      [thin('a')],
      [
        { ...removed, label: 'b', origin: '-c' },
        { ...removed, label: 'c', origin: '-b', descendants: ['a'] },
      ],
    );
    assert.deepEqual(ancestors(vg, { live: 'a' }, FULL), ['-c', '-b']);
  });
});
