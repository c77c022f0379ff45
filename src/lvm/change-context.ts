/**
 * What a command that changes something stands in, and what it asks for: devices, locks, files, the daemon's volumes, the person in front of
 * it. Types only; command.ts and changes.ts do the work.
 */
import type { OpenedDevice } from '../block/device.ts';
import type { HostContext } from './access.ts';
import type { ArchiveOptions } from './archive.ts';
import type { OwnLimits } from './edit/limits.ts';
import type { Effect, Plan } from './edit/plan.ts';
import type { LiveVolumes } from './live.ts';
import type { LockMode, LockOptions } from './locks.ts';
import type { Scan, ScannedDevice, VolumeGroup } from './model.ts';
import type { ScanOptions } from './scan.ts';

/** Who writes: what texts and files say of it. */
export interface Writer {
  /** "lvcreate -L 1g vg0": as typed, without the directory of the program. */
  readonly commandLine: string;
  /** "Orion LVM version 0.1.0" */
  readonly generator: string;
  readonly hostName: string;
  /** Kernel name, host, release, version and machine, as uname prints them. */
  readonly uname: string;
}

/** What runs a plan's effects, by kind. */
export type EffectRunners = {
  readonly [Kind in Effect['kind']]: (
    effect: Extract<Effect, { readonly kind: Kind }>,
    around: EffectContext,
  ) => Promise<void>;
};

export interface EffectContext {
  /** As committed; null after the VG was removed. */
  readonly group: VolumeGroup | null;
  /** Opens a device for reading and writing; who opens closes. */
  open(device: ScannedDevice): Promise<OpenedDevice>;
  readonly change: ChangeContext;
}

/** How far a long piece of work is. */
export interface WorkProgress {
  /** Bytes. */
  update(done: number, total: number): void;
  /** The work has ended, well or not. */
  end(): void;
}

/** A command's surroundings. */
export interface ChangeContext {
  /** Paths of all devices to look at. */
  readonly devices: readonly string[];
  readonly scan?: ScanOptions;
  /** Opens a device for a commit. Default: for reading and writing, exclusively. */
  readonly open?: (path: string) => Promise<OpenedDevice>;
  readonly host: HostContext;
  /** Null: no locks (--nolocking). */
  readonly locking: LockOptions | null;
  readonly writer: Writer;
  readonly backup: ArchiveOptions;
  /** Why devices that are there must not be used, in LVM2's words, by absolute path. */
  readonly excluded?: ReadonlyMap<string, string>;
  /** Told of every committed plan that makes, changes or removes PVs: the devices file follows. */
  readonly pvsChanged?: (plan: Plan, before: Scan) => Promise<void>;
  /** /run/lvm, where LVM2 keeps its hints; null: there are none to drop. */
  readonly hintsDirectory: string | null;
  readonly effects: EffectRunners;
  /** The daemon's volumes that follow what is committed. Default: nothing is served. */
  readonly live?: LiveVolumes;
  /** Told that something is about to be written (null), and of each plan that was committed. */
  readonly writing?: (plan: Plan | null) => void;
  /** Aborted: waiting for locks ends, and nothing more is committed. */
  readonly signal?: AbortSignal;
  /** --test: nothing is written. */
  readonly test: boolean;
  /** Number of -y. */
  readonly yes: number;
  /** Number of -f. */
  readonly force: number;
  /** `devices/allow_changes_with_duplicate_pvs`. */
  readonly allowDuplicates?: boolean;
  /** The limits that lvm.toml sets. */
  readonly limits?: OwnLimits;
  /** The auto_recovery setting: stale and damaged copies are repaired before a VG is changed, not with its change. */
  readonly autoRecovery?: boolean;
  /** A question ending in "[y/n]: "; true: yes. */
  prompt(question: string): Promise<boolean>;
  /** Shows how far long work on data is ("Wiping vg0/a"). Absent: nobody looks. */
  readonly progress?: (title: string) => WorkProgress;
  /** Lines for stdout and stderr, without indent and newline. */
  out(line: string): void;
  err(line: string): void;
  /** Unix seconds. */
  now(): number;
}

/** A VG that a command wants to change. */
export interface VolumeGroupRequest {
  readonly vgName: string;
  /** Display form: which of several VGs of that name, or, with an empty vgName, the VG. */
  readonly vgId?: string;
  /** P_global besides the VG's own lock (formats note §4 says which command takes which). */
  readonly globalLock?: LockMode;
  /** `read` for commands that look only (vgcfgbackup, vgck). Default: write. */
  readonly mode?: LockMode;
  /** The command can work on a VG whose PVs are missing. */
  readonly handlesMissing?: boolean;
  /** The command keeps segments that it does not know. */
  readonly handlesUnknownSegments?: boolean;
  readonly allowExported?: boolean;
  /** It only looks at the VG, and may at one of another host. Counts with `allowExported`. */
  readonly allowForeign?: boolean;
}

export interface LockChoice {
  readonly globalLock?: LockMode;
  /** Names of VGs to lock from the start. */
  readonly vgs?: readonly { readonly name: string; readonly mode: LockMode }[];
}
