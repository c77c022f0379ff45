/**
 * Which copy of each VG's metadata counts: the rules by which LVM2 reads around damage.
 *
 *  - A damaged header or text is skipped, and said.
 *  - Texts of one VG (one VG id, but for renamed copies) with the same seqno and different bytes: the first one seen counts, the others are mismatches.
 *  - Of several seqnos the highest usable one counts; older ones are stale.
 *  - A text that is sound and says something impossible is skipped like a damaged one: then an older copy counts.
 *
 * Invariants
 *  - Reads never repair: what was skipped is reported, and rewritten only by a command that changes the VG.
 *  - Every text whose VG could be told belongs to exactly one group, even if nothing of the group is usable.
 *
 * Source: formats note 1.5; the warnings are LVM2's, observed with 2.03.16 on damaged copies (its repeated scans of a damaged
 * device, which say everything twice, are not imitated).
 */
import type { ScanWarning } from './model.ts';
import type { AreaReading, DeviceReading } from './read-device.ts';
import { isUsable } from './texts.ts';
import type { TextCopy, UsableCopy } from './texts.ts';

/** One metadata area of one device. */
export interface AreaOf {
  readonly reading: DeviceReading;
  readonly area: AreaReading;
  readonly index: number;
}

/** What was found of one VG. */
export interface GroupChoice {
  readonly id: string;
  readonly name: string;
  /** Null: nothing of it is usable. */
  readonly chosen: UsableCopy | null;
  /** Why the newest copy is not usable, when `chosen` is null. */
  readonly failure: string;
  /** About this VG: for commands that look at it. */
  readonly warnings: readonly ScanWarning[];
}

export interface MetadataChoice {
  /** In the order of their first text. */
  readonly groups: readonly GroupChoice[];
  /** Why an area is of no use, for those that are not. */
  readonly problems: ReadonlyMap<AreaReading, string>;
  /** About devices, whatever VG they belong to. */
  readonly warnings: readonly ScanWarning[];
}

interface Group {
  readonly id: string;
  name: string;
  seqno: number;
  newest: TextCopy | null;
  /** Areas that LVM2 would read for the VG, in the scan's order. */
  readonly areas: AreaOf[];
  readonly warnings: string[];
}

/** Chooses among everything that was read; `readings` has one device per PV. */
export function chooseMetadata(readings: readonly DeviceReading[]): MetadataChoice {
  const scan = new MetadataScan();
  for (const reading of readings) scan.addDevice(reading);
  const groups = [...scan.groups.values()].map((group) => scan.readGroup(group));
  return { groups, problems: scan.problems, warnings: scan.warnings };
}

/** A usable copy and where it was read. */
interface Found {
  readonly copy: UsableCopy;
  readonly path: string;
}

class MetadataScan {
  /** By VG id; the second VG of an id by id and name. */
  readonly groups = new Map<string, Group>();
  readonly problems = new Map<AreaReading, string>();
  readonly warnings: ScanWarning[] = [];
  /** Groups by the checksum and size of their sound texts: LVM2 recognises a further copy by these without reading it. */
  readonly #known = new Map<string, Group>();

  addDevice(reading: DeviceReading): void {
    let failed = false;
    for (const [index, area] of reading.areas.entries()) {
      if (!this.#addArea({ reading, area, index })) failed = true;
    }
    if (!failed || reading.label === null) return;
    const pvid = reading.label.uuid.replaceAll('-', '');
    this.#warn(`WARNING: scan failed to get metadata summary from ${reading.device.path} PVID ${pvid}`);
  }

  /** Adds what an area says; false if LVM2's scan would fail on it. */
  #addArea(at: AreaOf): boolean {
    const { area, index } = at;
    const { path } = at.reading.device;
    if (area.header === null) {
      this.problems.set(area, area.headerFaults.join('; '));
      this.#warn(...area.headerFaults, `WARNING: bad metadata header on ${path} at ${area.place.offset}.`);
      return this.#scanFailed(at);
    }
    if (area.locn === null) return true;
    const known = this.#known.get(copyKey(area.locn));
    if (area.text === null || area.text.damaged) {
      this.problems.set(area, area.readFault ?? area.text?.failure ?? 'unreadable');
      if (known !== undefined) {
        known.areas.push(at);
        return true;
      }
      this.#warn(readFaultMessage(at), `WARNING: invalid metadata text from ${path} at ${textOffset(at)}.`);
      return this.#summaryFailed(at);
    }
    const { summary } = area.text;
    if (summary === null) {
      this.problems.set(area, area.text.failure ?? 'unreadable');
      this.#warn(area.text.failure ?? 'unreadable');
      return this.#summaryFailed(at);
    }
    const group = this.#groupOf(summary, area.text);
    const { newest } = group;
    if (newest !== null && newest !== area.text && summary.seqno === group.seqno) {
      this.problems.set(area, `seqno ${summary.seqno} with other content than on other devices`);
      const found = `mda_checksum ${area.text.checksum.toString(16)} mda_size ${area.text.size}`;
      const other = `${newest.checksum.toString(16)} ${newest.size}`;
      this.#warn(
        `WARNING: scan of VG ${summary.vgName} from ${path} mda${index + 1} found ${found} vs ${other}`,
        `WARNING: Scanning ${path} mda${index + 1} found mismatch with other metadata.`,
      );
      return false;
    }
    if (newest === null || summary.seqno > group.seqno) {
      group.newest = area.text;
      group.seqno = summary.seqno;
      group.name = summary.vgName;
    }
    this.#known.set(copyKey(area.locn), group);
    group.areas.push(at);
    return true;
  }

  /**
   * The group of a text. Of a VG that was copied and renamed without another id there are two: texts of one id, with different
   * names and no PV in common, belong to different VGs. (One that was just renamed has its PVs in both texts.)
   */
  #groupOf({ vgId, vgName }: NonNullable<TextCopy['summary']>, text: TextCopy): Group {
    const first = this.groups.get(vgId);
    if (first === undefined || first.name === vgName || sharePvs(first.newest, text)) {
      return first ?? this.#newGroup(vgId, vgId, vgName);
    }
    const key = `${vgId} ${vgName}`;
    return this.groups.get(key) ?? this.#newGroup(key, vgId, vgName);
  }

  #newGroup(key: string, id: string, name: string): Group {
    const group: Group = { id, name, seqno: -1, newest: null, areas: [], warnings: [] };
    this.groups.set(key, group);
    return group;
  }

  #summaryFailed(at: AreaOf): boolean {
    const { path } = at.reading.device;
    this.#warn(
      `WARNING: metadata on ${path} at ${textOffset(at)} has invalid summary for VG.`,
      `WARNING: bad metadata text on ${path} in mda${at.index + 1}`,
    );
    return this.#scanFailed(at);
  }

  #scanFailed(at: AreaOf): false {
    const { path } = at.reading.device;
    this.#warn(
      `WARNING: scanning ${path} mda${at.index + 1} failed to read metadata summary.`,
      `WARNING: repair VG metadata on ${path} with vgck --updatemetadata.`,
    );
    return false;
  }

  #warn(...messages: readonly string[]): void {
    for (const message of messages) this.warnings.push({ severity: 'warning', message });
  }

  /** Reads a VG from its areas, one after the other, as LVM2 does. */
  readGroup(group: Group): GroupChoice {
    let best: Found | null = null;
    let last: TextCopy | null = null;
    let inconsistent = false;
    for (const at of group.areas) {
      const copy = at.area.text;
      if (copy === null || !isUsable(copy)) {
        this.#readFailed(group, at);
        continue;
      }
      if (copy === last) continue;
      last = copy;
      const found: Found = { copy, path: at.reading.device.path };
      if (best !== null && best.copy.summary.seqno !== copy.summary.seqno) {
        inconsistent = true;
        group.warnings.push(ignoringMessage(group, best, found));
      }
      if (best === null || copy.summary.seqno > best.copy.summary.seqno) best = found;
    }
    if (inconsistent) {
      group.warnings.push(
        `WARNING: Inconsistent metadata found for VG ${group.name}.`,
        'See vgck --updatemetadata to correct inconsistency.',
      );
    }
    const name = best?.copy.summary.vgName ?? group.name;
    return {
      id: group.id,
      name,
      chosen: best?.copy ?? null,
      failure: group.newest?.failure ?? 'unreadable',
      warnings: group.warnings.map((message) => ({ severity: 'warning', message, vgName: name })),
    };
  }

  #readFailed(group: Group, at: AreaOf): void {
    const { area, reading } = at;
    const { path } = reading.device;
    const damaged = area.text === null || area.text.damaged;
    if (damaged) {
      const message = `WARNING: couldn't read volume group metadata from ${path}.`;
      group.warnings.push(readFaultMessage(at), message);
    } else {
      this.problems.set(area, area.text.failure ?? 'unreadable');
      group.warnings.push(area.text.failure ?? 'unreadable');
    }
    const place = `at ${textOffset(at)} off ${area.locn?.offset} size ${area.locn?.size}`;
    group.warnings.push(
      `WARNING: Failed to read metadata text ${place} VG ${group.name} on ${path}`,
      `WARNING: reading ${path} mda${at.index + 1} failed to read metadata.`,
      `WARNING: repair VG metadata on ${path} with vgck --updatemetadata.`,
      `WARNING: Reading VG ${group.name} on ${path} failed.`,
    );
  }
}

/** Whether some PV is listed by both; what can't be read counts as listing it. */
function sharePvs(a: TextCopy | null, b: TextCopy): boolean {
  if (a === null || a.metadata === null || b.metadata === null) return true;
  const listed = new Set(a.metadata.vg.physicalVolumes.map((pv) => pv.id));
  return b.metadata.vg.physicalVolumes.some((pv) => listed.has(pv.id));
}

function ignoringMessage(group: Group, a: Found, b: Found): string {
  const [older, newer] = a.copy.summary.seqno < b.copy.summary.seqno ? [a, b] : [b, a];
  const ignored = `seqno ${older.copy.summary.seqno} on ${older.path}`;
  const used = `seqno ${newer.copy.summary.seqno} on ${newer.path}`;
  return `WARNING: ignoring metadata ${ignored} for ${used} for VG ${group.name}.`;
}

function copyKey(copy: { readonly checksum: number; readonly size: number }): string {
  return `${copy.checksum}:${copy.size}`;
}

/** Byte offset of an area's text on its device. */
function textOffset(at: AreaOf): number {
  return at.area.place.offset + (at.area.locn?.offset ?? 0);
}

function readFaultMessage(at: AreaOf): string {
  if (at.area.readFault !== null) return `WARNING: ${at.area.readFault}`;
  return `WARNING: Checksum error on ${at.reading.device.path} at offset ${textOffset(at)}.`;
}
