/**
 * What passes over the control socket when a command is run by the daemon (docs/openapi.json describes the same), and between
 * the daemon and the process in which it runs that command.
 *
 * Invariant: all of it is plain data; what goes over the control socket is JSON.
 */
import type { LiveVolumes } from '../../lvm/live.ts';

/** The body of `POST /v1/commands`. */
export interface CommandRequest {
  /** "lvcreate" */
  readonly name: string;
  /** What was typed after the name. */
  readonly argv: readonly string[];
  /** Relative paths are taken from here. */
  readonly cwd: string;
  /** Of PASSED_VARIABLES only. */
  readonly env: Readonly<Record<string, string>>;
  readonly terminal: {
    /** Progress is shown: stderr is a terminal. */
    readonly isTTY: boolean;
    readonly columns: number;
  };
  /** Devices that the caller named (ScannedDevice.identity), by --devices or $ORION_LVM_DEVICES; null: none. */
  readonly devices: readonly string[] | null;
  /** Absolute path of the lvm.toml that the command goes by; null: there is none. */
  readonly configFile: string | null;
  /** Devices that this lvm.toml names, which count where the caller named none. */
  readonly configDevices: readonly string[];
}

/** Variables of the caller's environment that a command may depend on; no other reaches the daemon. */
export const PASSED_VARIABLES = [
  'DM_DEV_DIR',
  'LANG',
  'LC_ALL',
  'LC_TIME',
  'LVM_COMMAND_PROFILE',
  'LVM_SYSTEM_DIR',
  'LVM_VG_NAME',
  'ORION_LVM_CONFIG',
  'ORION_LVM_DEVICES',
  'TZ',
] as const;

/** One line of the answer's stream. `started` is the first, `exit` the last. */
export type CommandEvent =
  | { readonly type: 'started'; readonly id: string }
  | { readonly type: 'stdout' | 'stderr'; readonly text: string }
  | ProgressEvent
  /** To be written to the terminal as it is; the answer is a line without its newline, or null for the end of input. */
  | { readonly type: 'prompt'; readonly id: number; readonly question: string }
  | { readonly type: 'exit'; readonly code: number };

export interface ProgressEvent {
  readonly type: 'progress';
  /** "Wiping vg0/a" */
  readonly label: string;
  readonly done: number;
  readonly total: number;
  /** "bytes", "extents" */
  readonly unit: string;
}

/** The body of `POST /v1/commands/{id}/answers`. */
export interface PromptAnswer {
  /** The prompt's. */
  readonly id: number;
  readonly line: string | null;
}

/** The body of every answer that is an error. */
export interface ControlError {
  readonly code: string;
  readonly message: string;
}

/** The methods of LiveVolumes that a hosted command may call. */
export type LiveMethod = Exclude<keyof LiveVolumes, 'present'>;

/** From the daemon to the process of a command. */
export type ToHosted =
  | { readonly kind: 'run'; readonly request: CommandRequest }
  | { readonly kind: 'answer'; readonly answer: PromptAnswer }
  /** End at the next safe point. */
  | { readonly kind: 'cancel' }
  | { readonly kind: 'live-result'; readonly id: number; readonly value: unknown }
  | {
      readonly kind: 'live-refused';
      readonly id: number;
      readonly lines: readonly string[];
      readonly exitCode: 3 | 5;
    };

/** From the process of a command to the daemon. */
export type FromHosted =
  | { readonly kind: 'event'; readonly event: Exclude<CommandEvent, { readonly type: 'started' | 'exit' }> }
  | { readonly kind: 'live'; readonly id: number; readonly method: LiveMethod; readonly args: readonly unknown[] }
  /** The caller is to be told that it succeeded; the command goes on without him. */
  | { readonly kind: 'background' }
  | { readonly kind: 'exit'; readonly code: number };
