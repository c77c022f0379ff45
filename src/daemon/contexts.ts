/**
 * The meta contexts of a volume besides `base:allocation`: which there are, as the supervisor tells clients by name and workers by
 * what they need to answer.
 *
 * Invariants
 *  - A context is plain data and travels with the volume's table; one that comes or goes later is told by `describe` (worker/host.ts).
 *  - Names are unique within a volume. What a client selected is looked up by name for each question, and must be about what it was
 *    then: one that has gone since is an error to him, never an answer of something else.
 */
import { volumeId } from '../lvm/live.ts';
import type { VolumeGroup } from '../lvm/model.ts';
import { relationsOf } from '../lvm/relations.ts';
import { ALLOCATION_CONTEXT } from '../nbd/constants.ts';
import type { LogicalVolumeText } from '../ondisk/metadata.ts';

export const SEGMENT_CONTEXT = 'x-orion:segment';

/** What changed since a snapshot; its name follows. */
export const CHANGED_CONTEXT = 'x-orion:changed:';
/** The same, for programs that know QEMU's dirty bitmaps. */
export const DIRTY_CONTEXT = 'qemu:dirty-bitmap:';

/** One context; `kind` says who answers in the worker (worker/context-sources.ts). */
export type ContextSpec =
  | {
      readonly name: string;
      readonly kind: 'segment';
      /** Paths of the physical volumes in the order of the metadata: the first has number 1. Empty: it is missing. */
      readonly devices: readonly string[];
    }
  | {
      readonly name: string;
      readonly kind: 'changed';
      /** The snapshot's id, as tables have it. */
      readonly since: string;
    };

/** The contexts of an active LV of the group. */
export function contextsOf(group: VolumeGroup, lv: LogicalVolumeText): readonly ContextSpec[] {
  const devices = group.pvs.map(({ found }) => found?.device.path ?? '');
  return [{ name: SEGMENT_CONTEXT, kind: 'segment', devices }, ...changedContexts(group, lv)];
}

/** For each snapshot of the same origin but itself, in the order of the metadata; one that is merging is none any more. */
function changedContexts({ vg }: VolumeGroup, lv: LogicalVolumeText): readonly ContextSpec[] {
  const { lvs } = relationsOf(vg);
  const facts = lvs.get(lv.name);
  const origin = lvs.get(facts?.snapshot?.origin ?? lv.name);
  const bases = (origin?.snapshots ?? []).flatMap(({ cow, segment }) => {
    const base = segment.merging || cow === lv.name ? undefined : lvs.get(cow)?.lv;
    return base === undefined ? [] : [{ lv: base, since: volumeId(vg, base) }];
  });
  return [CHANGED_CONTEXT, DIRTY_CONTEXT].flatMap((prefix) =>
    bases.map(({ lv: { name }, since }) => ({ name: `${prefix}${name}`, kind: 'changed' as const, since })),
  );
}

/** What a client may select. */
export function contextNames(contexts: readonly ContextSpec[]): readonly string[] {
  return [ALLOCATION_CONTEXT, ...contexts.map(({ name }) => name)];
}
