/**
 * The commit protocol: how a plan reaches the disks (facts: LVM2 lib/metadata/metadata.c vg_write, vg_commit;
 * lib/format_text/format-text.c). Every step is flushed on every device it touched before the next one begins:
 *
 *     prepare      new PVs: old labels gone, empty metadata areas, a label that says "in no VG"; areas at new places
 *     writeTexts   the new text into the ring of every metadata area in use, behind the committed one
 *     precommit    slot 1 of each header names the new text
 *     commit       slot 0 of each header names the new text, slot 1 is cleared; areas that will be ignored come last
 *     mark         labels: members are marked as used, PVs that left the VG as not used
 *     clear        headers of PVs that left the VG name no text any more (of all its PVs, if the VG is removed)
 *     wipe         labels that go (pvremove)
 *
 * Invariants
 *  - Until the first header of `commit` is on a disk, every reader sees the old VG whole; from then on the highest seqno counts,
 *    so he sees the new one. Each header changes by one 512-byte write; old and new text never overlap.
 *  - An area is told to be ignored only after an area in use has the new text, so some area in use always names a whole text.
 *  - A failure before `commit` takes the precommitted slots back and changes nothing. In `commit`, one area in use that took the
 *    new text is enough, and the others are named as stale. A failure after it is reported and stops nothing else.
 *  - What is written has been printed, parsed again, compared and validated before the first write.
 *
 * LVM2 marks PVs before it writes texts, and ignores areas before it commits the others: a crash in between leaves a PV that
 * claims to be in use, or no area at all. The order here has neither.
 */
import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';
import type { BlockDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import { flush, writeBytes } from '../block/sync-io.ts';
import { EMPTY_LOCN, isIgnored, RAW_LOCN_IGNORED, type RawLocn, textWrites } from '../ondisk/mda.ts';
import type { MetadataText, TextHeader, VolumeGroupText } from '../ondisk/metadata.ts';
import type { PrintContext } from '../ondisk/vg-print.ts';
import { readMetadataText } from '../ondisk/vg-read.ts';
import { metadataTextBytes } from '../ondisk/vg-text.ts';
import { prepareWork, type TextArea, type Work } from './commit-work.ts';
import { areaKey } from './edit/after.ts';
import { canonical } from './edit/canonical.ts';
import { CommandError } from './edit/errors.ts';
import type { Plan } from './edit/plan.ts';
import { withPvFacts } from './edit/pv-facts.ts';
import type { ScannedDevice } from './model.ts';
import { wipeLabels, writeEmptyArea, writeHeader, writeLabel, zeroHead } from './pv-write.ts';

const MAX_SEQNO = 2 ** 32 - 1;

export interface CommitContext {
  /** Opens for reading and writing, exclusively. The commit closes what it opened. */
  open(device: ScannedDevice): Promise<BlockDevice>;
  /** What the text's header says: description, host, time. */
  readonly header: TextHeader;
  readonly print: PrintContext;
  /** Something went wrong that did not stop the commit. */
  readonly warn: (message: string) => void;
}

export interface Committed {
  /** Null: the plan leaves no VG. */
  readonly metadata: MetadataText | null;
  /** What failed after the VG was committed: the command has failed, and the VG is as planned. */
  readonly problems: readonly string[];
  /** The text's bytes, without the NUL that ends it on disk; null: the plan leaves no VG. */
  readonly text: Buffer | null;
  /** Where the text now is, by `areaKey`; areas that could not be committed are not among them. */
  readonly texts: ReadonlyMap<string, RawLocn>;
}

/** The protocol, in order; docs/commit-protocol.md prints it, and the crash tests stop after each write of it. */
export const COMMIT_STEPS: readonly ((work: Work) => Promise<void>)[] = [
  prepare,
  writeTexts,
  precommit,
  commit,
  mark,
  clear,
  wipe,
];

/** Carries a plan out. Throws CommandError or DeviceError: then the VG is as before, unless the message says otherwise. */
export async function commitPlan(plan: Plan, context: CommitContext): Promise<Committed> {
  const metadata = plan.after === null ? null : nextMetadata(plan, plan.after, context.header);
  const text = metadata === null ? null : checkedText(metadata, context.print);
  const devices = new OpenDevices(context);
  try {
    const { warn } = context;
    const work = await prepareWork(plan, metadata, text, { warn, open: (device) => devices.get(device) });
    for (const step of COMMIT_STEPS) await step(work);
    if (work.problems.length > 0 && metadata === null && plan.before !== null) {
      work.problems.push(`Volume group "${work.vgName}" not properly removed`);
    }
    return { metadata, problems: work.problems, text: text?.subarray(0, -1) ?? null, texts: work.committed };
  } finally {
    await devices.close();
  }
}

/** The text that a plan leaves: the VG with its next seqno, as LVM2 stores it. */
export function nextMetadata(plan: Plan, after: VolumeGroupText, header: TextHeader): MetadataText {
  const seqno = (plan.before?.vg.seqno ?? after.seqno - 1) + 1;
  if (seqno > MAX_SEQNO) {
    throw new CommandError(`Volume group ${after.name} has reached the highest seqno, ${MAX_SEQNO}.`);
  }
  const vg = canonical(withPvFacts({ ...after, seqno }, plan));
  return { header, vg, extra: plan.before?.metadata.extra ?? [] };
}

/** The text's bytes, once they are known to say what was meant. */
function checkedText(metadata: MetadataText, print: PrintContext): Buffer {
  const text = metadataTextBytes(metadata, print);
  const where = { device: 'new metadata', offset: 0 };
  // Equal to what was validated, so it needs no validation of its own.
  const { logicalVolumes } = metadata.vg;
  // What is equal is not kept twice.
  const again = readMetadataText(text, where, (lv, index) => {
    const meant = logicalVolumes[index];
    return meant !== undefined && isDeepStrictEqual(lv, meant) ? meant : lv;
  });
  assert(
    isDeepStrictEqual(again, metadata),
    `the new metadata of ${metadata.vg.name} does not survive its own printing`,
  );
  return text;
}

/** The devices of one commit, each opened once. */
class OpenDevices {
  readonly #context: CommitContext;
  readonly #open = new Map<string, BlockDevice>();

  constructor(context: CommitContext) {
    this.#context = context;
  }

  async get(device: ScannedDevice): Promise<BlockDevice> {
    const known = this.#open.get(device.identity);
    if (known !== undefined) return known;
    const opened = await this.#context.open(device);
    this.#open.set(device.identity, opened);
    return opened;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map((device) => device.close()));
  }
}

/** Waits for everything, then throws the first failure: nothing goes on behind the back of who handles it. */
async function all(work: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) if (result.status === 'rejected') throw result.reason;
}

function flushAll(devices: Iterable<BlockDevice>): Promise<void> {
  return all([...new Set(devices)].map((device) => flush(device)));
}

async function prepare({ prepared }: Work): Promise<void> {
  for (const { device, write, emptyAreas } of prepared) {
    if (write.kind === 'create' && write.zeroHead) await zeroHead(device);
    for (const header of emptyAreas) await writeEmptyArea(device, header);
  }
  await flushAll(prepared.map(({ device }) => device));
  for (const { device, write, label } of prepared) {
    if (label === null) continue;
    if (write.kind === 'create') await wipeLabels(device, label.sector);
    await writeLabel(device, label);
  }
  await flushAll(prepared.map(({ device }) => device));
}

async function writeTexts({ areas, text, vgName }: Work): Promise<void> {
  if (text === null) return;
  try {
    await all(
      areas.map(async ({ device, header, next }) => {
        for (const { offset, bytes } of textWrites(header, next.offset, text)) await writeBytes(device, offset, bytes);
      }),
    );
    await flushAll(areas.map(({ device }) => device));
  } catch (error) {
    throw notWritten(vgName, error);
  }
}

async function precommit(work: Work): Promise<void> {
  try {
    await all(work.areas.map((area) => writeSlots(area, [keptSlot(area), area.next])));
    await flushAll(work.areas.map(({ device }) => device));
  } catch (error) {
    await revert(work);
    throw notWritten(work.vgName, error);
  }
}

/** Slot 0 until the commit: nothing, if the area held nothing to keep. */
function keptSlot({ header }: TextArea): RawLocn {
  return isIgnored(header) ? { ...EMPTY_LOCN, flags: RAW_LOCN_IGNORED } : header.slots[0];
}

/** Takes the precommitted slots back, as far as the devices let us; one that stays is ignored by every reader. */
async function revert({ areas, warn }: Work): Promise<void> {
  for (const area of areas) {
    try {
      await writeSlots(area, [keptSlot(area), EMPTY_LOCN]);
      await flush(area.device);
    } catch (error) {
      warn(`WARNING: ${area.device.name} keeps an unused precommitted copy: ${messageOf(error)}`);
    }
  }
}

async function commit(work: Work): Promise<void> {
  const { areas, vgName, warn } = work;
  if (areas.length === 0) return;
  const failed = await commitAreas(
    areas.filter((area) => !area.ignored),
    work.committed,
  );
  if (failed.length === areas.filter((area) => !area.ignored).length) {
    await revert(work);
    const reasons = failed.map(({ error }) => error.message);
    throw new CommandError([`Failed to write VG ${vgName}: no metadata area could be committed.`, ...reasons]);
  }
  failed.push(
    ...(await commitAreas(
      areas.filter((area) => area.ignored),
      work.committed,
    )),
  );
  for (const { area, error } of failed) {
    warn(`WARNING: Failed to commit metadata area at ${area.header.start} of ${area.device.name}: ${error.message}`);
  }
  if (failed.length > 0) {
    warn(`WARNING: VG ${vgName} is committed with fewer copies; those named above are stale until its next change.`);
  }
}

async function commitAreas(
  areas: readonly TextArea[],
  committed: Work['committed'],
): Promise<{ readonly area: TextArea; readonly error: DeviceError }[]> {
  const failed: { readonly area: TextArea; readonly error: DeviceError }[] = [];
  await all(
    areas.map(async (area) => {
      try {
        await writeSlots(area, [area.next, EMPTY_LOCN]);
        await flush(area.device);
        committed.set(areaKey(area.identity, area.header.start), area.next);
      } catch (error) {
        if (!(error instanceof DeviceError)) throw error;
        failed.push({ area, error });
      }
    }),
  );
  return failed;
}

function writeSlots({ device, header }: TextArea, slots: readonly [RawLocn, RawLocn]): Promise<void> {
  return writeHeader(device, { ...header, slots });
}

function mark(work: Work): Promise<void> {
  return finish(
    work,
    work.labels.map(({ device, label }) => ({ device, write: () => writeLabel(device, label), what: 'PV header' })),
  );
}

/** A PV that is still marked as used keeps its text: then it is an outdated PV of its VG, and not one of no VG at all. */
function clear(work: Work): Promise<void> {
  return finish(
    work,
    work.headers
      .filter(({ device }) => !work.failed.has(device))
      .map(({ device, header }) => ({
        device,
        write: () => writeHeader(device, header),
        what: `metadata area at ${header.start}`,
      })),
  );
}

function wipe(work: Work): Promise<void> {
  return finish(
    work,
    work.wiped.map((device) => ({ device, write: () => wipeLabels(device, null), what: 'label' })),
  );
}

/** Does what is left after the commit; what fails is kept for the end. */
async function finish(
  { problems, failed }: Work,
  writes: readonly { readonly device: BlockDevice; readonly what: string; readonly write: () => Promise<void> }[],
): Promise<void> {
  for (const { device, what, write } of writes) {
    try {
      await write();
      await flush(device);
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      failed.add(device);
      problems.push(`Failed to write ${what} of ${device.name}: ${error.message}`);
    }
  }
}

function notWritten(vgName: string, error: unknown): CommandError {
  return new CommandError([messageOf(error), `Failed to write VG ${vgName}.`], 5, { cause: error });
}

function messageOf(error: unknown): string {
  if (error instanceof DeviceError) return error.message;
  throw error;
}
