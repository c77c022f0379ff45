/** What we derive from real metadata texts, against what the real LVM2 reports of the same bytes. */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { allocationMapOf } from '../../src/lvm/allocation-map.ts';
import { missingPvsOf } from '../../src/lvm/activate.ts';
import { lvLayout, lvRoles } from '../../src/lvm/layout.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import {
  ancestorsOf,
  descendantsOf,
  originSizeSectors,
  relationsOf,
  segmentTypeName,
} from '../../src/lvm/relations.ts';
import type { LvFacts, VgRelations } from '../../src/lvm/relations.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { diskTexts, pvBytes } from '../ondisk/samples.ts';
import { imagesOf, writeImages } from './images.ts';
import { withLvm2 } from './lvm2.ts';
import type { Lvm2 } from './lvm2.ts';

type Row = Record<string, string>;

const LV_FIELDS =
  'lv_name,vg_name,lv_role,lv_layout,lv_parent,origin,pool_lv,data_lv,metadata_lv,mirror_log,lv_ancestors,lv_descendants,' +
  'lv_size,seg_count,origin_size';
const SEGMENT_FIELDS = 'lv_name,segtype,seg_start_pe,seg_size_pe';
const PV_FIELDS =
  'pv_name,vg_name,pv_uuid,pv_pe_count,pv_pe_alloc_count,pv_missing,pv_mda_free,pv_mda_count,pv_mda_used_count';
const PV_SEGMENT_FIELDS = 'pv_name,pvseg_start,pvseg_size,lv_name,seg_start_pe';
const VG_FIELDS = 'vg_name,vg_uuid,vg_seqno,pv_count,vg_missing_pv_count,vg_extent_count,vg_free_count';

describe('as LVM2 reports', { concurrency: 4 }, () => {
  for (const sample of diskTexts()) {
    test(sample.name, async () => {
      await withTemporaryFolder(async (folder) => {
        await compare(await writeImages(imagesOf(sample.text, folder)));
      });
    });
  }
  test('unusual layouts: two areas, none, ignored, bootloader area, label in sector 3', async () => {
    await withTemporaryFolder(async (folder) => {
      const images = [0, 1, 2, 3, 4, 5].map((number) => ({
        path: join(folder, `pv${number}`),
        head: pvBytes(`11-pv${number}-first2M.bin.gz`),
        sizeBytes: 256 * 1024 * 1024,
      }));
      const files = await writeImages(images);
      const last = pvBytes('11-pv0-last2M.bin.gz');
      await writeAt(files[0] ?? '', last, 256 * 1024 * 1024 - last.length);
      await compare(files);
    });
  });
  test('a text that wraps round the end of its area', async () => {
    await withTemporaryFolder(async (folder) => {
      const head = pvBytes('13-wrapped-pv-first1M.bin.gz');
      await compare(await writeImages([{ path: join(folder, 'pv0'), head, sizeBytes: 256 * 1024 * 1024 }]));
    });
  });
  for (const name of ['basic', 'snap', 'thin', 'raid', 'cache']) {
    test(`golden ${name}`, async () => {
      await withTemporaryFolder(async (folder) => {
        await compare((await unpackGolden(name, folder)).images);
      });
    });
  }
});

async function writeAt(path: string, bytes: Buffer, offset: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.write(bytes, 0, bytes.length, offset);
  } finally {
    await file.close();
  }
}

async function compare(files: readonly string[]): Promise<void> {
  const scan = await scanDevices(files);
  assert.deepEqual(scan.unreadable, []);
  await withLvm2(files, async (lvm) => {
    await compareVgs(scan, lvm);
    await comparePvs(scan, lvm);
    // LVM2 reports no LVs of an exported VG.
    if (scan.volumeGroups.some((group) => group.vg.status.includes('EXPORTED'))) return;
    await compareLvs(scan, lvm);
  });
}

async function compareVgs(scan: Scan, lvm: Lvm2): Promise<void> {
  const ours = scan.volumeGroups.map((group) => ({
    vg_name: group.vg.name,
    vg_uuid: group.vg.id,
    vg_seqno: String(group.vg.seqno),
    pv_count: String(group.pvs.length),
    vg_missing_pv_count: String(group.pvs.filter((pv) => pv.missing).length),
    vg_extent_count: String(allocationMapOf(group.vg).total),
    vg_free_count: String(allocationMapOf(group.vg).free),
  }));
  assert.deepEqual(ours, await lvm.report('vgs', '-o', VG_FIELDS));
}

async function comparePvs(scan: Scan, lvm: Lvm2): Promise<void> {
  const pvs = scan.volumeGroups.flatMap((group) => group.pvs.map((pv) => ({ group, pv })));
  const ours = pvs.map(({ group, pv }) => {
    const areas = pv.found?.metadataAreas ?? [];
    const allocation = allocationMapOf(group.vg).pvs.get(pv.text?.label ?? '');
    return {
      pv_name: pv.found?.device.path ?? '[unknown]',
      vg_name: group.vg.name,
      pv_uuid: pv.uuid,
      pv_pe_count: String(allocation?.total),
      pv_pe_alloc_count: String(allocation?.allocated),
      pv_missing: pv.missing ? 'missing' : '',
      pv_mda_free: String(areas.length === 0 ? 0 : Math.min(...areas.map((area) => area.freeBytes))),
      pv_mda_count: String(areas.length),
      pv_mda_used_count: String(areas.filter((area) => !area.ignored).length),
    };
  });
  assert.deepEqual(sorted(ours), sorted(await lvm.report('pvs', '-o', PV_FIELDS)));

  const segments = pvs.flatMap(({ group, pv }) => {
    const relations = relationsOf(group.vg);
    return (allocationMapOf(group.vg).pvs.get(pv.text?.label ?? '')?.segments ?? []).map((segment) => ({
      pv_name: pv.found?.device.path ?? '[unknown]',
      pvseg_start: String(segment.startPe),
      pvseg_size: String(segment.length),
      lv_name: segment.owner === null ? '' : shown(relations, segment.owner.lv.name),
      seg_start_pe: String(segment.owner?.segment.startExtent ?? 0),
    }));
  });
  assert.deepEqual(sorted(segments), sorted(await lvm.report('pvs', '--segments', '-o', PV_SEGMENT_FIELDS)));
}

async function compareLvs(scan: Scan, lvm: Lvm2): Promise<void> {
  const ours: Row[] = [];
  const segments: Row[] = [];
  const partial: string[] = [];
  for (const group of scan.volumeGroups) {
    const relations = relationsOf(group.vg);
    for (const facts of relations.lvs.values()) {
      if (facts.snapshotRecord) continue;
      ours.push(lvRow(group, relations, facts));
      for (const segment of facts.lv.segments) {
        segments.push({
          lv_name: shown(relations, facts.name),
          segtype: segmentTypeName(segment),
          seg_start_pe: String(segment.startExtent),
          seg_size_pe: String(segment.extentCount),
        });
      }
      if (missingPvsOf(group, facts.name).length > 0) partial.push(shown(relations, facts.name));
    }
  }
  assert.deepEqual(sorted(ours), sorted(await lvm.report('lvs', '-a', '-o', LV_FIELDS)));
  assert.deepEqual(sorted(segments), sorted(await lvm.report('lvs', '-a', '--segments', '-o', SEGMENT_FIELDS)));
  const attributes = await lvm.report('lvs', '-a', '-o', 'lv_name,lv_attr');
  const theirs = attributes.filter((row) => row['lv_attr']?.[8] === 'p').map((row) => row['lv_name'] ?? '');
  assert.deepEqual(new Set(partial), new Set(theirs));
}

function lvRow(group: VolumeGroup, relations: VgRelations, facts: LvFacts): Row {
  const originSize = originSizeSectors(relations, facts);
  return {
    lv_name: shown(relations, facts.name),
    vg_name: group.vg.name,
    lv_role: lvRoles(relations, facts).join(','),
    lv_layout: lvLayout(facts).join(','),
    lv_parent: shown(relations, facts.parent),
    origin: shown(relations, facts.origin),
    pool_lv: shown(relations, facts.pool),
    data_lv: shown(relations, facts.dataLv),
    metadata_lv: shown(relations, facts.metadataLv),
    mirror_log: shown(relations, facts.mirrorLog),
    lv_ancestors: ancestorsOf(relations, facts.name).join(','),
    lv_descendants: descendantsOf(relations, facts.name).join(','),
    lv_size: String(facts.sizeSectors * 512),
    seg_count: String(facts.lv.segments.length),
    origin_size: originSize === null ? '' : String(originSize * 512),
  };
}

/** A name as reports show it: hidden LVs in brackets. */
function shown(relations: VgRelations, name: string | null): string {
  if (name === null) return '';
  return relations.lvs.get(name)?.visible === true ? name : `[${name}]`;
}

function sorted(rows: readonly Row[]): readonly string[] {
  return rows.map((row) => JSON.stringify(Object.entries(row).toSorted(([a], [b]) => (a < b ? -1 : 1)))).toSorted();
}
