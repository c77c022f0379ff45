/**
 * What a command asks of the daemon that serves the volumes which it changes. A command run by the daemon gets the daemon's
 * own `LiveVolumes` (over IPC); without one nothing is served, and NO_LIVE_VOLUMES says so.
 *
 *     under the VG's lock:   edit → prepare → commit → wipe what is new → committed → erase what is freed → unlock
 *                                      └──── any failure before the commit ────→ abandoned
 *
 * Invariants
 *  - From `prepare` to `committed` or `abandoned` nobody new gets at the volumes that go away, and those that lose extents do no
 *    I/O: an old table never writes to extents that the metadata gives to somebody else.
 *  - The lock of the VG is released only after `committed` or `abandoned` has returned.
 *  - A command that dies in between is noticed by the daemon, which then does what `committed` does: it reads the VG, whichever
 *    of the two states is on its disks, and makes the volumes follow.
 *  - Everything here is plain data, so that it can cross a process's border.
 */

import type { SnapshotStatus } from './snapshot-status.ts';

/** `VG-uuid LV-uuid`, both in display form: what stays when names change. */
export type VolumeId = string;

export function volumeId(vg: { readonly id: string }, lv: { readonly id: string }): VolumeId {
  return `${vg.id} ${lv.id}`;
}

/** A volume that a change concerns; the name is for messages. */
export interface LiveVolumeRef {
  readonly id: VolumeId;
  /** "VG/LV", as it was before the change. */
  readonly name: string;
}

/** A commit that is about to be made. */
export interface LiveChange {
  /** Unlike any other change's: `committed` and `abandoned` say which one they end. */
  readonly key: string;
  /** The VGs that are written: to be read again. */
  readonly groups: readonly LiveGroup[];
  /** Absolute paths of devices that become PVs of these VGs: the daemon looks at them from now on, whatever it was told to look at. */
  readonly joining: readonly string[];
  /** Volumes that will be no more: refused while somebody uses them, unless `force`. */
  readonly leaving: readonly LiveVolumeRef[];
  /** Volumes that lose extents and stay: suspended (what is in flight is finished) until the change has ended. */
  readonly losing: readonly LiveVolumeRef[];
  /** Volumes that stay with another content: nobody may use them from before the commit until they have it. */
  readonly unused: readonly LiveVolumeRef[];
  /** Merges that wait for the next activation of their origin: it, and the snapshot, go on as they are. */
  readonly deferred: readonly DeferredMerge[];
  /** What new volumes are from this commit on. Those of `committed` count; those of `prepare` if the command dies. */
  readonly decisions: readonly LiveDecision[];
  /** Clients of `leaving` are disconnected instead of respected. */
  readonly force: boolean;
}

/** A merge that waits for the next activation of its origin. */
export interface DeferredMerge {
  readonly origin: VolumeId;
  readonly cow: VolumeId;
}

/** A VG that a change writes. It is known by its uuid (that of before, where the change gives it another). */
export interface LiveGroup {
  readonly id: string;
  /** As it is afterwards; a VG that is removed has the name that it had. */
  readonly name: string;
  /** Null: it did not exist. */
  readonly seqnoBefore: number | null;
  /** Null: it is removed. */
  readonly seqnoAfter: number | null;
}

export interface LiveDecision {
  readonly volume: LiveVolumeRef;
  readonly active: boolean;
  /** Active even if PVs are missing: what lies on them is errors, as with LVM2's `--activationmode partial`. */
  readonly partial?: boolean;
}

/** lvchange and vgchange -a, --refresh. */
export interface LiveActivation {
  readonly vgId: string;
  /** Volumes to activate (whatever flags say: the command has looked at them) or to deactivate (refused while in use). */
  readonly decisions: readonly LiveDecision[];
  /** Volumes whose tables are to be loaded again though they did not change. */
  readonly refresh: readonly LiveVolumeRef[];
  /** Clients of volumes that are deactivated are disconnected instead of respected. */
  readonly force: boolean;
}

/** Why a volume is not as it was wished to be; for people. */
export interface LiveProblem {
  readonly volume: LiveVolumeRef;
  readonly reason: string;
}

/** A volume that the daemon knows of. */
export interface LiveStatus {
  readonly id: VolumeId;
  readonly active: boolean;
  readonly suspended: boolean;
  readonly readOnly: boolean;
  /** Clients in the transmission phase. */
  readonly openCount: number;
  /** A table is loaded into the inactive slot. */
  readonly inactiveTable: boolean;
  /** Of a COW snapshot, or an origin that takes one in. */
  readonly snapshot?: SnapshotStatus;
  /** Of the LV of a pvmove: how much is on both sides. */
  readonly copied?: { readonly doneBytes: number; readonly totalBytes: number };
  /** A snapshot is merged into it from its next activation on. */
  readonly mergeWaits?: true;
  /** Why it is not active; absent where it is, or where somebody wished it so. */
  readonly reason?: string;
}

/** The step of a pvmove in progress: the mirror lines of one pvmove LV. */
export interface MoveStatus {
  /** Every byte of the step is on the destination, and durable there. */
  readonly inSync: boolean;
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Copying has ended with an error: the move can only be aborted, or gone on with after what failed is back. */
  readonly problem?: string;
}

/** Every method throws a CommandError: with LVM2's words where the daemon refuses, or saying that the daemon went away. */
export interface LiveVolumes {
  /** False: no daemon runs this command, and every answer is empty. */
  readonly present: boolean;
  /**
   * Whether the daemon has a device (ScannedDevice.identity) for itself: this command then opens it without `exclusive`, as
   * the daemon's claim covers it.
   */
  holds(identity: string): Promise<boolean>;
  /** Before a commit. When it throws, nothing is held off or suspended. */
  prepare(change: LiveChange): Promise<void>;
  /** After a commit: the VGs are read again, and their volumes, devices included, are what the metadata says. */
  committed(change: LiveChange): Promise<readonly LiveProblem[]>;
  /**
   * The commit was not made, or failed: what `prepare` did is undone, and the VGs are read again all the same, since of a commit that
   * failed at its end something may have stayed. Decisions of the change don't count.
   */
  abandoned(change: LiveChange): Promise<void>;
  /**
   * Decisions hold until the next one, or until the daemon ends, as the kernel's do: a volume that was deactivated stays so over
   * scans, one that is active stays active though a flag now keeps it from being activated automatically. Without a decision
   * (a new volume, a start) flags and the daemon's configuration decide.
   */
  activate(activation: LiveActivation): Promise<readonly LiveProblem[]>;
  /** Every volume of a VG (by uuid), or of all; those that are not listed are not active. */
  status(vgId?: string): Promise<ReadonlyMap<VolumeId, LiveStatus>>;
  /** Null: no such move is served (its LVs are not active), so that nobody but the caller can copy. */
  moveStatus(pvmoveLv: VolumeId): Promise<MoveStatus | null>;
  /** Looks for devices and VGs that came or went, as SIGHUP does. */
  rescan(): Promise<void>;
  /** A flush of a device (ScannedDevice.identity) has failed here: what its volumes' clients wrote may be lost, and no flush of theirs may succeed. */
  flushLost(identity: string, errno: number): Promise<void>;
}

const NOTHING: readonly never[] = [];
const NO_STATUS: ReadonlyMap<VolumeId, LiveStatus> = new Map();

/** No daemon: nothing is served. */
export const NO_LIVE_VOLUMES: LiveVolumes = {
  present: false,
  holds: () => Promise.resolve(false),
  prepare: () => Promise.resolve(),
  committed: () => Promise.resolve(NOTHING),
  abandoned: () => Promise.resolve(),
  activate: () => Promise.resolve(NOTHING),
  status: () => Promise.resolve(NO_STATUS),
  moveStatus: () => Promise.resolve(null),
  rescan: () => Promise.resolve(),
  flushLost: () => Promise.resolve(),
};
