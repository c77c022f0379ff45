/**
 * The meta contexts of a volume besides `base:allocation`: which there are, as the supervisor tells clients by name and workers by
 * what they need to answer.
 *
 * Invariants
 *  - A context is plain data and travels with the volume's table; one that comes or goes later is told by `describe` (worker/host.ts).
 *  - Names are unique within a volume. What a client selected is looked up by name for each question, so a context that has gone
 *    since is an error to him, never an answer of something else.
 */
import type { VolumeGroup } from '../lvm/model.ts';
import { ALLOCATION_CONTEXT } from '../nbd/constants.ts';

export const SEGMENT_CONTEXT = 'x-orion:segment';

/** One context; `kind` says who answers in the worker (worker/context-sources.ts). */
export type ContextSpec = {
  readonly name: string;
  readonly kind: 'segment';
  /** Paths of the physical volumes in the order of the metadata: the first has number 1. Empty: it is missing. */
  readonly devices: readonly string[];
};

/** The contexts of an active LV of the group. */
export function contextsOf({ pvs }: VolumeGroup): readonly ContextSpec[] {
  const devices = pvs.map(({ found }) => found?.device.path ?? '');
  return [{ name: SEGMENT_CONTEXT, kind: 'segment', devices }];
}

/** What a client may select. */
export function contextNames(contexts: readonly ContextSpec[]): readonly string[] {
  return [ALLOCATION_CONTEXT, ...contexts.map(({ name }) => name)];
}
