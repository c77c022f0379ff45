/**
 * pvdisplay's forms of one PV: the full block, its map of extents, the line of colons, the short line.
 *
 * Source: pvdisplay(8), compared byte by byte with LVM2 2.03.16.
 */
import { isExported } from '../../lvm/access.ts';
import { allocationMapOf, type PvAllocation, type PvSegment } from '../../lvm/allocation-map.ts';
import type { PhysicalVolume, VolumeGroup } from '../../lvm/model.ts';
import { isAllocatable, pvDeviceSectors, pvName, pvSizeSectors } from '../report/fields/pv.ts';
import type { ReportRow } from '../report/field.ts';
import type { Display } from './lines.ts';

/** Columns of keys in blocks about PVs and VGs. */
export const KEY_WIDTH = 22;

/** Bits of LVM2's status word that the line of colons shows. */
const STATUS = { exported: 0x2, allocatable: 0x8, missing: 0x800000 } as const;

/** A PV with what its VG says of it; an orphan has no extents. */
export class PvView {
  readonly pv: PhysicalVolume;
  readonly group: VolumeGroup | null;
  readonly name: string;

  constructor(pv: PhysicalVolume, group: VolumeGroup | null) {
    this.pv = pv;
    this.group = group;
    this.name = pvName({ device: pv.found?.device ?? null });
  }

  /** Sectors of the whole device, as the VG knows it. */
  get sizeSectors(): number {
    return pvDeviceSectors(this.pv);
  }
  get extentSectors(): number {
    return this.group?.vg.extentSizeSectors ?? 0;
  }
  get total(): number {
    return this.pv.text?.peCount ?? 0;
  }
  get allocated(): number {
    return this.#allocation()?.allocated ?? 0;
  }
  get free(): number {
    return this.total - this.allocated;
  }
  get segments(): readonly PvSegment[] {
    return this.#allocation()?.segments ?? [];
  }
  get allocatable(): boolean {
    return this.group !== null && isAllocatable(this.pv);
  }
  get exported(): boolean {
    return this.group !== null && isExported(this.group.vg);
  }
  /** Sectors in extents; of an orphan the whole of it. */
  get usableSectors(): number {
    return pvSizeSectors(this.pv, this.group);
  }

  #allocation(): PvAllocation | undefined {
    const label = this.pv.text?.label;
    return this.group === null || label === undefined ? undefined : allocationMapOf(this.group.vg).pvs.get(label);
  }
}

/** The PV of a row; null for a device that is none. */
export function pvView(row: ReportRow): PvView | null {
  return row.pv === null || row.pv.pv === null ? null : new PvView(row.pv.pv, row.vg);
}

/** What is said of a PV before it is shown in full or in colons. */
export function announcePv(display: Display, view: PvView): void {
  if (view.exported) {
    display.print(`Physical volume "${view.name}" of volume group "${view.group?.vg.name ?? ''}" is exported`);
  }
  if (view.group === null) {
    display.print(`"${view.name}" is a new physical volume of "${display.size(view.sizeSectors)}"`);
  }
}

function sizeText(display: Display, view: PvView): string {
  const size = display.size(view.sizeSectors);
  if (view.total === 0) return size;
  const usable = view.total * view.extentSectors;
  // What lies before the data only counts when more than that is left over.
  const data = view.sizeSectors - (view.pv.text?.peStartSectors ?? 0);
  return `${size} / not usable ${display.size(data > usable ? view.sizeSectors - usable : 0)}`;
}

/** The block of keys and values. */
export function showPv(display: Display, view: PvView): void {
  display.title(`${view.group === null ? 'NEW ' : ''}Physical volume`);
  display.pair('PV Name', view.name);
  display.pair('VG Name', `${view.group?.vg.name ?? ''}${view.exported ? ' (exported)' : ''}`);
  display.pair('PV Size', sizeText(display, view));
  const full = view.free === 0 ? '(but full)' : '';
  display.pair('Allocatable', view.allocatable && view.total > 0 ? `yes ${full}` : 'NO');
  display.pair('PE Size', display.size(view.extentSectors));
  display.pair('Total PE', view.total);
  display.pair('Free PE', view.free);
  display.pair('Allocated PE', view.allocated);
  display.pair('PV UUID', view.pv.uuid);
  display.blank();
}

/** Which LV each run of extents belongs to. */
export function showPvMap(display: Display, view: PvView): void {
  if (view.group !== null) display.title('Physical Segments');
  for (const { startPe, length, owner } of view.segments) {
    display.print(`Physical extent ${startPe} to ${startPe + length - 1}:`);
    if (owner === null) {
      display.print('  FREE');
      continue;
    }
    const { startExtent, extentCount } = owner.segment;
    display.print(`  Logical volume\t/dev/${view.group?.vg.name ?? ''}/${owner.lv.name}`);
    display.print(`  Logical extents\t${startExtent} to ${startExtent + extentCount - 1}`);
  }
  display.blank();
}

/** One line of fields separated by colons. -1 stands for what LVM1 had. */
export function showPvColons(display: Display, view: PvView): void {
  const allocatable = view.allocatable ? STATUS.allocatable : 0;
  const status = allocatable | (view.exported ? STATUS.exported : 0) | (view.pv.missing ? STATUS.missing : 0);
  const extentKiB = view.extentSectors / 2;
  display.print(
    [
      view.name,
      view.group?.vg.name ?? '',
      view.sizeSectors,
      -1,
      status,
      allocatable,
      -1,
      extentKiB,
      view.total,
      view.free,
      view.allocated,
      view.pv.uuid,
    ].join(':'),
  );
}

/** How much may still be allocated. */
export function showPvShort(display: Display, view: PvView): void {
  const free = view.group === null ? view.usableSectors : view.free * view.extentSectors;
  display.print(`Device "${view.name}" has a capacity of ${display.size(free)}`);
}
