/**
 * Merges that wait for the next activation of their origin, because it or the snapshot was open when they were asked for. The
 * metadata say that they merge; who serves them goes on with an origin and a snapshot, as LVM2 does until then.
 *
 * Invariant: pure. Whose merge waits is for the daemon to know, and nobody else: a merge that has begun must never look as if it had not.
 */
import type { VolumeGroupText } from '../ondisk/metadata.ts';
import { withoutMerge } from './edit/lv-merge.ts';
import { type VolumeId, volumeId } from './live.ts';
import { relationsOf } from './relations.ts';

/** Whether the merge into the LV with this id waits. */
export type Waits = (origin: VolumeId) => boolean;

/** The metadata as its volumes are served: the same object where nothing waits. */
export function asServed(vg: VolumeGroupText, waits: Waits): VolumeGroupText {
  return mergesOf(vg)
    .filter(({ origin }) => waits(origin))
    .reduce((text, { record }) => withoutMerge(text, record), vg);
}

/** An origin that takes a snapshot in. */
export interface MergeNames {
  readonly origin: VolumeId;
  readonly originName: string;
  readonly cow: VolumeId;
  readonly cowName: string;
  readonly record: string;
}

/** The merges of a VG, whether they have begun or wait. */
export function mergesOf(vg: VolumeGroupText): readonly MergeNames[] {
  // Most VGs have none.
  const any = vg.logicalVolumes.some(({ segments: [first] }) => first?.type === 'snapshot' && first.merging);
  if (!any) return [];
  const { lvs } = relationsOf(vg);
  return [...lvs.values()].flatMap(({ lv, snapshot }) => {
    const origin = snapshot?.segment.merging === true ? lvs.get(snapshot.origin) : undefined;
    if (origin === undefined || snapshot === null) return [];
    const ids = { origin: volumeId(vg, origin.lv), cow: volumeId(vg, lv) };
    return [{ ...ids, originName: origin.name, cowName: lv.name, record: snapshot.record }];
  });
}
