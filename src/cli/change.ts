/**
 * What a command that changes something gives to lvm/command.ts: devices, locks, files, prompts and streams, from its options
 * and surroundings.
 *
 * Invariants
 *  - As root the locks and the archive are LVM2's own, so that both can be used on one host; without root they are the user's.
 *  - -An switches archive and backup off together, as in LVM2.
 */
import { hostname, machine, release, tmpdir, type, version } from 'node:os';
import { join } from 'node:path';
import type { Config } from '../daemon/config-schema.ts';
import type { ArchiveOptions } from '../lvm/archive.ts';
import { archiveDirectory, backupDirectory as backupDirectoryOf } from '../lvm/backup-directories.ts';
import type { ChangeContext } from '../lvm/change-context.ts';
import { type DevicesFile, notePvs } from '../lvm/devices-file.ts';
import { EFFECTS } from '../lvm/effects.ts';
import { HINTS_DIRECTORY } from '../lvm/hints.ts';
import { opener } from '../lvm/open.ts';
import type { LockOptions } from '../lvm/locks.ts';
import type { CommandContext } from './command.ts';
import { ask, type Terminal } from './prompt.ts';
import type { Output } from './messages.ts';
import { commandDevices } from './scan.ts';
import { VERSION } from './version.ts';

/** Surroundings for changes to the user's devices, and to `added` ones (PVs named as arguments). */
export async function changeContext(context: CommandContext, added: readonly string[] = []): Promise<ChangeContext> {
  const found = await commandDevices(context, added);
  const { paths, scan, systemId, extraSystemIds, excluded, devicesFile } = found;
  const { options, output, settings } = context;
  const yes = options.count('yes');
  return {
    devices: paths,
    scan,
    excluded,
    host: { systemId, extraSystemIds, allowForeign: false, allowShared: false },
    locking: options.has('nolocking') ? null : { ...lockOptions(context), signal: context.signal },
    writer: {
      commandLine: commandLineOf(context),
      generator: `Orion LVM version ${VERSION}`,
      hostName: hostname(),
      uname: `${type()} ${hostname()} ${release()} ${version()} ${machine()}`,
    },
    backup: archiveOptions(context),
    hintsDirectory: context.uid === 0 ? HINTS_DIRECTORY : null,
    ...(devicesFile === null ? {} : { pvsChanged: noting(devicesFile, found.devicesFileMissing, output) }),
    effects: EFFECTS,
    live: context.live,
    ...(context.writing === undefined ? {} : { writing: context.writing }),
    signal: context.signal,
    open: opener(context.live),
    ...(context.toml === null ? {} : tomlChoices(context.toml.config)),
    allowDuplicates: settings.bool('devices/allow_changes_with_duplicate_pvs'),
    test: options.has('test'),
    yes,
    force: options.count('force'),
    prompt(question) {
      const silent = options.count('quiet') > 1;
      return ask(question, { yes: yes > 0, silent, output, ...context.terminal });
    },
    ...(options.has('quiet') ? {} : progressOn(context.terminal)),
    out: (line) => output.print(line),
    err: (line) => output.error(line),
    now: () => Math.floor(Date.now() / 1000),
  };
}

/** Notes PVs in the devices file. One that is missing is made only where it can't hide a VG. */
function noting(file: DevicesFile, missing: boolean, output: Output): NonNullable<ChangeContext['pvsChanged']> {
  let toMake = missing;
  let refused = false;
  return async (plan, { volumeGroups }) => {
    if (refused) return;
    if (toMake && volumeGroups.length > 0) {
      output.error('Not creating system devices file due to existing VGs.');
      refused = true;
      return;
    }
    if (toMake) output.error(`Creating devices file ${file.path}`);
    toMake = false;
    await notePvs(file, plan);
  };
}

/** Shows work on bytes where somebody looks. */
function progressOn({ progress }: Terminal): Pick<ChangeContext, 'progress'> {
  if (progress === undefined) return {};
  return {
    progress: (title) => ({
      update: (done, total) => progress.update(title, done, total, 'bytes'),
      end: () => progress.end(),
    }),
  };
}

function tomlChoices(config: Config): Required<Pick<ChangeContext, 'limits' | 'autoRecovery'>> {
  return {
    limits: {
      physicalVolumeBytes: config.physical_volume_size_limit,
      pvsPerVg: config.volume_group_max_pvs,
      lvsPerVg: config.volume_group_max_lvs,
      extentsPerVg: config.volume_group_max_pes,
      logicalVolumeBytes: config.logical_volume_max_size,
      snapshotsPerLv: config.logical_volume_snapshot_limit,
    },
    autoRecovery: config.auto_recovery,
  };
}

/** Every text carries the command that wrote it: a list of many devices must not fill its metadata area. */
const LONGEST_COMMAND_LINE = 1024;

/** As typed, with words of several words quoted as LVM2 does. */
function commandLineOf({ name, argv }: CommandContext): string {
  const line = [name, ...argv].map((word) => (word.includes(' ') ? `'${word}'` : word)).join(' ');
  return line.length <= LONGEST_COMMAND_LINE ? line : `${line.slice(0, LONGEST_COMMAND_LINE)}...`;
}

function lockOptions(context: CommandContext): LockOptions {
  const { settings, uid } = context;
  return {
    directory: uid === 0 ? settings.string('global/locking_dir') : join(userDirectory(context), 'lock'),
    wait: settings.bool('global/wait_for_locks'),
    prioritiseWriters: settings.bool('global/prioritise_write_locks'),
    metadataReadOnly: settings.bool('global/metadata_read_only'),
  };
}

/** Where a user without root keeps what lasts as long as the machine runs. */
function userDirectory({ env, uid }: CommandContext): string {
  const runtime = env['XDG_RUNTIME_DIR'] ?? '';
  return runtime === '' ? join(tmpdir(), `orion-lvm-${uid}`) : join(runtime, 'orion-lvm');
}

/** -An and -Ay decide about both; else each has its setting. */
function archiveOptions(context: CommandContext): ArchiveOptions {
  const { settings } = context;
  const choice = context.options.value('autobackup')?.toLowerCase();
  const wanted = (setting: 'backup/archive' | 'backup/backup'): boolean => {
    return choice === undefined ? settings.bool(setting) : !['n', '0'].includes(choice);
  };
  const archive = {
    directory: archiveDirectory(settings, context),
    retainMin: settings.int('backup/retain_min'),
    retainDays: settings.int('backup/retain_days'),
  };
  const backup = { directory: backupDirectory(context) };
  return { archive: wanted('backup/archive') ? archive : null, backup: wanted('backup/backup') ? backup : null };
}

/** Where backups of VGs are, whether or not commands make them by themselves. */
export function backupDirectory(context: CommandContext): string {
  return backupDirectoryOf(context.settings, context);
}
