/** Damaged physical volumes: the scan makes of them what the real LVM2 makes of them, and says so in its words. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Scan } from '../../src/lvm/model.ts';
import { relationsOf } from '../../src/lvm/relations.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { DAMAGE } from './damage.ts';
import { writeImages } from './images.ts';
import { reportRows, withLvm2 } from './lvm2.ts';

type Row = Record<string, string>;

describe('damage, as LVM2 takes it', { concurrency: 4 }, () => {
  for (const { name, images, otherWords } of DAMAGE) {
    test(name, async () => {
      await withTemporaryFolder(async (folder) => {
        const files = await writeImages(images(folder));
        await withLvm2(files, async (lvm) => {
          const scan = await scanDevices(inScanOrder(files, lvm.devices));
          const pvs = await lvm.run('pvs', '--reportformat', 'json', '-o', PV_FIELDS);
          assert.deepEqual(sorted(pvRows(scan)), sorted(reportRows(pvs.stdout)));
          assert.deepEqual(sorted(vgRows(scan)), sorted(await lvm.report('vgs', '-o', VG_FIELDS)));
          assert.deepEqual(sorted(lvRows(scan)), sorted(await lvm.report('lvs', '-o', 'lv_name,vg_uuid')));
          if (otherWords !== true) assert.deepEqual(ourWords(scan), words(pvs.stderr.split('\n')));
        });
      });
    });
  }
});

/** LVM2 scans in the order of device numbers, and where copies differ, the first one seen may count. */
function inScanOrder(files: readonly string[], devices: readonly string[]): readonly string[] {
  const pairs = files.map((file, index) => ({ file, minor: Number(devices[index]?.slice('/dev/loop'.length)) }));
  return pairs.toSorted((a, b) => a.minor - b.minor).map((pair) => pair.file);
}

const PV_FIELDS = 'pv_name,vg_name,pv_uuid,pv_missing,pv_mda_count,pv_mda_used_count,pv_in_use,pv_duplicate';
const VG_FIELDS = 'vg_name,vg_uuid,vg_seqno,pv_count,vg_missing_pv_count,lv_count';

function pvRows(scan: Scan): readonly Row[] {
  const members = scan.volumeGroups.flatMap((group) => group.pvs.map((pv) => ({ vgName: group.vg.name, pv })));
  const orphans = scan.orphans.map((pv) => ({ vgName: pv.found?.inUse === true ? '[unknown]' : '', pv }));
  const rows = [...members, ...orphans].map(({ vgName, pv }) => {
    const usable = (pv.found?.metadataAreas ?? []).filter((area) => area.problem === undefined);
    return {
      pv_name: pv.found?.device.path ?? '[unknown]',
      vg_name: vgName,
      pv_uuid: pv.uuid,
      pv_missing: pv.missing ? 'missing' : '',
      pv_mda_count: String(usable.length),
      pv_mda_used_count: String(usable.filter((area) => !area.ignored).length),
      pv_in_use: pv.text !== undefined || pv.found?.inUse === true ? 'used' : '',
      pv_duplicate: '',
    };
  });
  return rows;
}

function vgRows(scan: Scan): readonly Row[] {
  return scan.volumeGroups.map((group) => ({
    vg_name: group.vg.name,
    vg_uuid: group.vg.id,
    vg_seqno: String(group.vg.seqno),
    pv_count: String(group.pvs.length),
    vg_missing_pv_count: String(group.pvs.filter((pv) => pv.missing).length),
    lv_count: String([...relationsOf(group.vg).lvs.values()].filter((facts) => facts.visible).length),
  }));
}

function lvRows(scan: Scan): readonly Row[] {
  return scan.volumeGroups.flatMap((group) =>
    [...relationsOf(group.vg).lvs.values()]
      .filter((facts) => facts.visible)
      .map((facts) => ({ lv_name: facts.name, vg_uuid: group.vg.id })),
  );
}

function ourWords(scan: Scan): readonly string[] {
  return words(scan.warnings.map((warning) => warning.message));
}

/** Warnings, each once. Left out: what its parser says of a text (ours speaks for itself) and its retries. */
function words(lines: readonly string[]): readonly string[] {
  const comparable = lines
    .map((line) => line.trim())
    .filter((line) => /^(?:WARNING: (?!Activation disabled)|See vgck|Fix dup)/.test(line))
    // Where LVM2's summary of a text fails, it says that the text is invalid; ours fails at the same place, in other words.
    .filter((line) => !line.startsWith('WARNING: invalid metadata text'))
    // Which of several devices with the same copy is named depends on an order that its rescans change.
    .map((line) => line.replace(/(?<=ignoring metadata seqno \d+) on \S+ (for seqno \d+) on \S+/, ' $1'));
  return [...new Set(comparable)].toSorted();
}

function sorted(rows: readonly Row[]): readonly string[] {
  return rows.map((row) => JSON.stringify(Object.entries(row).toSorted(([a], [b]) => (a < b ? -1 : 1)))).toSorted();
}
