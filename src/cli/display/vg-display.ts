/**
 * vgdisplay's forms of one VG: the full block, the line of colons, the short line, and (-v) its PVs.
 *
 * Source: vgdisplay(8), compared byte by byte with LVM2 2.03.16.
 */
import { isExported, isShared } from '../../lvm/access.ts';
import { allocationMapOf } from '../../lvm/allocation-map.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { openVolumes } from '../../lvm/served.ts';
import { countAreas, isClustered, isResizeable, isWritable, visibleLvCount } from '../report/fields/vg.ts';
import type { Display } from './lines.ts';
import { PvView } from './pv-display.ts';

/** Bits of LVM2's status word that the line of colons shows. */
const STATUS = {
  exported: 0x2,
  resizeable: 0x4,
  noAutoactivate: 0x10,
  read: 0x100,
  write: 0x200,
  clustered: 0x400,
} as const;

function accessWords(group: VolumeGroup, [both, read, write]: readonly [string, string, string]): string {
  const readable = group.vg.status.includes('READ');
  const writable = isWritable(group);
  if (readable && writable) return both;
  return readable ? read : writable ? write : 'error';
}

function presentPvs(group: VolumeGroup): number {
  return group.pvs.filter((pv) => !pv.missing).length;
}

/** The block of keys and values. */
export function showVg(display: Display, group: VolumeGroup): void {
  const { vg } = group;
  const map = allocationMapOf(vg);
  const size = (extents: number): string => display.size(extents * vg.extentSizeSectors);
  display.title('Volume group');
  display.pair('VG Name', vg.name);
  display.pair('System ID', vg.systemId ?? '');
  display.pair('Format', vg.format ?? 'lvm2');
  display.pair('Metadata Areas', countAreas(group));
  display.pair('Metadata Sequence No', vg.seqno);
  display.pair('VG Access', accessWords(group, ['read/write', 'read', 'write']));
  const exported = isExported(vg) ? 'exported/' : '';
  display.pair('VG Status', `${exported}${isResizeable(group) ? '' : 'NOT '}resizable`);
  if (isClustered(group)) {
    display.pair('Clustered', 'yes');
    display.pair('Shared', isShared(vg) ? 'yes' : 'no');
  }
  display.pair('MAX LV', vg.maxLv);
  display.pair('Cur LV', visibleLvCount(group));
  display.pair('Open LV', openVolumes(group));
  display.pair('Max PV', vg.maxPv);
  display.pair('Cur PV', group.pvs.length);
  display.pair('Act PV', presentPvs(group));
  display.pair('VG Size', size(map.total));
  display.pair('PE Size', display.size(vg.extentSizeSectors));
  display.pair('Total PE', map.total);
  display.pair('Alloc PE / Size', `${map.allocated} / ${size(map.allocated)}`);
  display.pair('Free  PE / Size', `${map.free} / ${size(map.free)}`);
  display.pair('VG UUID', vg.id);
  display.blank();
}

/** The PVs below a VG's block. */
export function showVgPvs(display: Display, group: VolumeGroup): void {
  display.title('Physical volumes');
  for (const pv of group.pvs) {
    const view = new PvView(pv, group);
    display.pair('PV Name', `${view.name}     `);
    display.pair('PV UUID', pv.uuid);
    display.pair('PV Status', `${view.allocatable ? '' : 'NOT '}allocatable`);
    display.pair('Total PE / Free PE', `${view.total} / ${view.free}`);
    display.blank();
  }
}

/** One line of fields separated by colons. -1 stands for what LVM1 had; sizes in KiB. */
export function showVgColons(display: Display, group: VolumeGroup): void {
  const { vg } = group;
  const map = allocationMapOf(vg);
  const status =
    (vg.status.includes('READ') ? STATUS.read : 0) |
    (isWritable(group) ? STATUS.write : 0) |
    (isResizeable(group) ? STATUS.resizeable : 0) |
    (isExported(vg) ? STATUS.exported : 0) |
    (vg.flags.includes('NOAUTOACTIVATE') ? STATUS.noAutoactivate : 0) |
    (isClustered(group) ? STATUS.clustered : 0);
  display.print(
    [
      vg.name,
      accessWords(group, ['r/w', 'r', 'w']),
      status,
      -1,
      vg.maxLv,
      visibleLvCount(group),
      openVolumes(group),
      -1,
      vg.maxPv,
      group.pvs.length,
      presentPvs(group),
      (map.total * vg.extentSizeSectors) / 2,
      vg.extentSizeSectors / 2,
      map.total,
      map.allocated,
      map.free,
      vg.id,
    ].join(':'),
  );
}

/** Size, used, free. */
export function showVgShort(display: Display, group: VolumeGroup): void {
  const map = allocationMapOf(group.vg);
  const size = (extents: number): string => display.size(extents * group.vg.extentSizeSectors);
  // LVM2 pads this zero to the width of a unit in full.
  const used = map.allocated === 0 ? `0${' '.repeat(8)}` : size(map.allocated);
  display.print(`"${group.vg.name}" ${size(map.total)} [${used} used / ${size(map.free)} free]`);
}
