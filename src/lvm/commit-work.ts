/**
 * What a commit has to do, worked out before its first write: which devices take part, which metadata areas get the text, and
 * which labels and headers change.
 *
 * Invariants
 *  - Only reads happen here; everything that can be refused (a text too large, no area left) is refused here.
 *  - A device is told by its identity, so a PV that changes its uuid is still the same PV.
 *  - An area that can't be used is left out with a warning; an ignored area that stays ignored is left alone, as LVM2 does.
 */
import assert from 'node:assert/strict';
import type { BlockDevice } from '../block/device.ts';
import { FormatError } from '../ondisk/errors.ts';
import { type Label, PV_HEADER_EXTENSION_VERSION } from '../ondisk/label.ts';
import {
  committedText,
  EMPTY_LOCN,
  hasPrecommit,
  isIgnored,
  maxTextBytes,
  type MdaHeader,
  nextTextOffset,
  RAW_LOCN_IGNORED,
  type RawLocn,
  textLocn,
} from '../ondisk/mda.ts';
import type { MetadataText } from '../ondisk/metadata.ts';
import { CommandError } from './edit/errors.ts';
import type { Plan, PvLabelWrite } from './edit/plan.ts';
import type { ByteRange, LabelledDevice, MetadataArea, ScannedDevice } from './model.ts';
import { emptyHeader, labelOf, markedAs, readHeader } from './pv-write.ts';

/** A metadata area that gets the new text. */
export interface TextArea {
  readonly device: BlockDevice;
  /** ScannedDevice.identity */
  readonly identity: string;
  /** As it is on the device, or as it is written first if the area is new. */
  readonly header: MdaHeader;
  /** After the commit it is ignored. */
  readonly ignored: boolean;
  /** Slot 0 after the commit. */
  readonly next: RawLocn;
}

export interface LabelChange {
  readonly device: BlockDevice;
  readonly label: Label;
}

export interface HeaderChange {
  readonly device: BlockDevice;
  readonly header: MdaHeader;
}

/** Labels and empty areas to write before any text. */
export interface Preparation {
  readonly device: BlockDevice;
  readonly write: PvLabelWrite;
  /** Null: the label is written at the end. */
  readonly label: Label | null;
  readonly emptyAreas: readonly MdaHeader[];
}

export interface Work {
  /** For messages. */
  readonly vgName: string;
  readonly text: Buffer | null;
  readonly prepared: readonly Preparation[];
  readonly areas: readonly TextArea[];
  /** Labels written once the VG is committed. */
  readonly labels: readonly LabelChange[];
  /** Headers written after that: of PVs that are in the VG no more, of orphans whose ignored flag changes. */
  readonly headers: readonly HeaderChange[];
  /** Devices that lose their labels at last. */
  readonly wiped: readonly BlockDevice[];
  readonly warn: (message: string) => void;
  /** What failed after the VG was committed. */
  readonly problems: string[];
  /** On which devices. */
  readonly failed: Set<BlockDevice>;
  /** The texts' places in the areas that were committed. */
  readonly committed: Map<string, RawLocn>;
}

export interface WorkContext {
  /** Gives a device open for writing; one device is opened once. */
  open(device: ScannedDevice): Promise<BlockDevice>;
  readonly warn: (message: string) => void;
}

/** member: of the VG to commit; leaver: was, is no more; outdated: holds an old copy; orphan: in no VG before and after. */
type Role = 'member' | 'leaver' | 'outdated' | 'orphan';

interface Participant {
  readonly device: ScannedDevice;
  /** Null: the device is no PV yet. */
  readonly found: LabelledDevice | null;
  readonly write: PvLabelWrite | null;
  readonly role: Role;
}

/** Works everything out. `metadata` and `text` are what is to be committed; null if the plan leaves no VG. */
export async function prepareWork(
  plan: Plan,
  metadata: MetadataText | null,
  text: Buffer | null,
  context: WorkContext,
): Promise<Work> {
  const maker = new WorkMaker(plan, metadata, text, context);
  for (const participant of participantsOf(plan)) await maker.add(participant);
  for (const { device } of plan.wipes) maker.wiped.push(await context.open(device));
  if (metadata !== null && !maker.areas.some((area) => !area.ignored)) {
    throw new CommandError('Aborting vg_write: No metadata areas to write to!');
  }
  return {
    vgName: metadata?.vg.name ?? plan.before?.vg.name ?? '',
    text,
    prepared: maker.prepared,
    areas: maker.areas,
    labels: maker.labels,
    headers: maker.headers,
    wiped: maker.wiped,
    warn: context.warn,
    problems: [],
    failed: new Set(),
    committed: new Map(),
  };
}

/** The devices of a plan, each once, in the order of the VG's PVs, then as the plan names them. */
function participantsOf(plan: Plan): readonly Participant[] {
  const members = new Set(plan.after?.physicalVolumes.map((pv) => pv.id));
  const writes = new Map(plan.labels.map((write) => [write.device.identity, write]));
  const moved = new Set(plan.movedAway);
  const participants = new Map<string, Participant>();
  const add = (found: LabelledDevice, otherwise: Role): void => {
    const { device } = found;
    const write = writes.get(device.identity) ?? null;
    const role = members.has(write?.label.uuid ?? found.uuid) ? 'member' : otherwise;
    if (!participants.has(device.identity)) participants.set(device.identity, { device, found, write, role });
  };
  for (const { found, uuid } of plan.before?.pvs ?? []) if (found !== null && !moved.has(uuid)) add(found, 'leaver');
  for (const found of plan.joining ?? []) add(found, 'orphan');
  if (plan.clearOutdated === true) for (const found of plan.before?.outdated ?? []) add(found, 'outdated');
  for (const write of plan.labels) {
    const { device, label } = write;
    if (participants.has(device.identity)) continue;
    assert(write.kind === 'create' || write.found !== undefined, `${device.path}: an update of an unknown PV`);
    participants.set(device.identity, {
      device,
      found: write.found ?? null,
      write,
      role: members.has(label.uuid) ? 'member' : 'orphan',
    });
  }
  return [...participants.values()];
}

class WorkMaker {
  readonly prepared: Preparation[] = [];
  readonly areas: TextArea[] = [];
  readonly labels: LabelChange[] = [];
  readonly headers: HeaderChange[] = [];
  readonly wiped: BlockDevice[] = [];
  readonly #plan: Plan;
  readonly #metadata: MetadataText | null;
  readonly #text: Buffer | null;
  readonly #context: WorkContext;

  constructor(plan: Plan, metadata: MetadataText | null, text: Buffer | null, context: WorkContext) {
    this.#plan = plan;
    this.#metadata = metadata;
    this.#text = text;
    this.#context = context;
  }

  async add(participant: Participant): Promise<void> {
    const { found, write, role } = participant;
    const label = write?.label ?? (found === null ? null : labelOf(found));
    if (label === null) return;
    const fresh: MdaHeader[] = [];
    for (const [index, place] of label.metadataAreas.entries()) {
      const known = write?.kind === 'create' ? undefined : areaAt(found, place);
      const ignored = this.#isToBeIgnored(label.uuid, index, write, known);
      if (known === undefined) {
        const header = emptyHeader(place, ignored);
        fresh.push(header);
        await this.#addText(participant, header, ignored);
      } else await this.#addKnown(participant, known, ignored);
    }
    await this.#addLabel(participant, label, role === 'member', fresh);
  }

  #isToBeIgnored(uuid: string, index: number, write: PvLabelWrite | null, known: MetadataArea | undefined): boolean {
    const stated = this.#plan.ignoredAreas?.get(uuid) ?? (write?.kind === 'create' ? write.ignoredAreas : undefined);
    return stated?.includes(index) ?? known?.ignored ?? false;
  }

  /** An area that is on the device already. */
  async #addKnown(participant: Participant, area: MetadataArea, ignored: boolean): Promise<void> {
    const { role } = participant;
    if (area.problem !== undefined && role === 'member' && this.#plan.repairDamaged !== true) return;
    const device = await this.#context.open(participant.device);
    const header = await this.#read(device, area);
    if (header === null) return;
    this.#checkUnchanged(participant, area, header);
    if (role === 'member') {
      this.#warnOfRepair(participant, area);
      await this.#addText(participant, header, ignored);
      return;
    }
    const flags = ignored ? RAW_LOCN_IGNORED : 0;
    const cleared = { ...header, slots: [{ ...EMPTY_LOCN, flags }, EMPTY_LOCN] as const };
    if (role === 'outdated') this.#context.warn(`WARNING: wiping mda on outdated PV ${participant.device.path}`);
    if (role !== 'orphan' || isIgnored(header) !== ignored) this.headers.push({ device, header: cleared });
  }

  /**
   * The device is ours alone now; if its text is not the one that was read, somebody with other lock files (another user, another
   * host on shared storage) changed it meanwhile, and his change must not be lost.
   */
  #checkUnchanged({ device, found }: Participant, { text, ignored, problem }: MetadataArea, header: MdaHeader): void {
    if (ignored || problem !== undefined) return;
    const now = committedText(header);
    const joins = found !== null && this.#plan.joining?.includes(found) === true;
    const same =
      text === undefined
        ? now === null || !joins
        : now?.offset === text.offset && now.size === text.size && now.checksum === text.checksum;
    if (same) return;
    throw new CommandError(
      `${device.path}: the metadata was changed by somebody else since it was read. Nothing was written; try again.`,
    );
  }

  async #read(device: BlockDevice, area: MetadataArea): Promise<MdaHeader | null> {
    try {
      return await readHeader(device, area);
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      // The place is the label's, which has a checksum of its own; what the header said of texts is lost.
      const replaceable = error.code === 'BAD_CRC' || error.code === 'BAD_VERSION';
      if (this.#plan.repairDamaged === true && replaceable && area.size > 0) return emptyHeader(area, false);
      const what = this.#plan.repairDamaged === true ? 'not repairing' : 'not updating';
      this.#context.warn(`WARNING: ${what} bad metadata for mda${area.index + 1} on ${device.name}: ${error.message}`);
      return null;
    }
  }

  async #addText({ device, role }: Participant, header: MdaHeader, ignored: boolean): Promise<void> {
    if (this.#text === null || this.#metadata === null || role !== 'member') return;
    const handle = await this.#context.open(device);
    if (ignored && isIgnored(header)) {
      // Left over by a crash, and never cleared otherwise.
      if (hasPrecommit(header)) this.headers.push({ device: handle, header: withoutPrecommit(header) });
      return;
    }
    this.#checkSize(handle, header);
    const offset = nextTextOffset(header, committedText(header), this.#text.length, handle.name);
    const next = textLocn(offset, this.#text);
    this.areas.push({
      device: handle,
      identity: device.identity,
      header,
      ignored,
      next: ignored ? { ...next, flags: RAW_LOCN_IGNORED } : next,
    });
  }

  #checkSize(device: BlockDevice, header: MdaHeader): void {
    const max = maxTextBytes(header.size);
    const size = this.#text?.length ?? 0;
    if (size <= max || this.#metadata === null) return;
    const { name, seqno } = this.#metadata.vg;
    throw new CommandError([
      `VG ${name} ${seqno} metadata on ${device.name} (${size} bytes) exceeds maximum metadata size (${max} bytes)`,
      `Failed to write VG ${name}.`,
    ]);
  }

  async #addLabel(
    { device, found, write, role }: Participant,
    label: Label,
    used: boolean,
    fresh: readonly MdaHeader[],
  ): Promise<void> {
    const last = markedAs(label, used);
    const first = write === null ? null : firstLabel(write, found);
    if (write !== null) {
      this.prepared.push({ device: await this.#context.open(device), write, label: first, emptyAreas: fresh });
    }
    const before = first ?? (found === null ? null : labelOf(found));
    if (before !== null && sameLabel(before, last)) return;
    if (role === 'member' && write === null && found !== null && this.#plan.joining?.includes(found) !== true) {
      this.#context.warn(`WARNING: updating PV header on ${device.path} for VG ${this.#metadata?.vg.name}.`);
    }
    if (role === 'outdated') this.#context.warn(`WARNING: wiping header on outdated PV ${device.path}`);
    this.labels.push({ device: await this.#context.open(device), label: last });
  }

  #warnOfRepair({ device }: Participant, area: MetadataArea): void {
    const { before } = this.#plan;
    if (before === null || this.#metadata === null) return;
    const { seqno, name } = this.#metadata.vg;
    if (area.problem !== undefined) {
      this.#context.warn(
        `WARNING: repairing bad metadata in mda${area.index + 1} at ${area.offset} on ${device.path}.`,
      );
    } else if (area.text?.vgName === before.vg.name && area.text.seqno < before.vg.seqno) {
      this.#context.warn(`WARNING: updating old metadata to ${seqno} on ${device.path} for VG ${name}.`);
    }
  }
}

function withoutPrecommit(header: MdaHeader): MdaHeader {
  return { ...header, slots: [header.slots[0], EMPTY_LOCN] };
}

/** The area of the PV as found that lies exactly there. */
function areaAt(found: LabelledDevice | null, { offset, size }: ByteRange): MetadataArea | undefined {
  return found?.metadataAreas.find((area) => area.offset === offset && area.size === size);
}

/** The label that stands on the device while the VG is committed: not yet marked, if it is new; null: the one found. */
function firstLabel({ kind, when, label }: PvLabelWrite, found: LabelledDevice | null): Label | null {
  if (kind === 'create') return markedAs(label, false);
  return when === 'before' ? markedAs(label, found?.inUse ?? false) : null;
}

function sameLabel(a: Label, b: Label): boolean {
  return (
    a.extensionVersion === PV_HEADER_EXTENSION_VERSION &&
    a.extensionFlags === b.extensionFlags &&
    a.uuid === b.uuid &&
    a.sector === b.sector &&
    a.deviceSizeBytes === b.deviceSizeBytes &&
    sameAreas(a.metadataAreas, b.metadataAreas) &&
    sameAreas(a.dataAreas, b.dataAreas) &&
    sameAreas(a.bootloaderAreas, b.bootloaderAreas)
  );
}

function sameAreas(a: readonly ByteRange[], b: readonly ByteRange[]): boolean {
  return (
    a.length === b.length && a.every((area, index) => area.offset === b[index]?.offset && area.size === b[index].size)
  );
}
