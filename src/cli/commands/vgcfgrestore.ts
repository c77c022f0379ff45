/** vgcfgrestore: writes a volume group's metadata from a backup file; with --list it shows which there are. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { archivesOf } from '../../lvm/archive.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { nameProblem } from '../../lvm/edit/vg-names.ts';
import { restoreVgPlan } from '../../lvm/edit/vg-restore.ts';
import { REPAIRED_CREATION_TIME } from '../../ondisk/config-parser.ts';
import { FormatError } from '../../ondisk/errors.ts';
import type { MetadataText } from '../../ondisk/metadata.ts';
import { plainText } from '../../ondisk/plain-text.ts';
import { ctime } from '../../ondisk/vg-print.ts';
import { parseMetadataText } from '../../ondisk/vg-text.ts';
import { backupDirectory, changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { attachedLvs } from '../lv/attached.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { withoutDevDirectory } from '../names.ts';
import { REPORTFORMAT_OPTION } from '../option-values.ts';

export const command: Command = {
  summary: 'Restore volume group configuration',
  argumentsUsage: 'VG',
  options: [
    {
      long: 'file',
      short: 'f',
      argument: 'String',
      description: 'The backup file. Default: the last backup of the VG.',
    },
    { long: 'force', countable: true, description: 'Also with thin volumes, whose pools may have changed since.' },
    { long: 'list', short: 'l', description: 'Show the backup files of the VG, or what the file holds.' },
    {
      long: 'metadatatype',
      short: 'M',
      argument: 'lvm2',
      check: (value) => value === 'lvm2' || value === '2',
      description: 'The format of the metadata; there is one.',
    },
    REPORTFORMAT_OPTION,
  ],
  run: vgcfgrestore,
};

async function vgcfgrestore(context: CommandContext): Promise<ExitCode> {
  const { options, args, cwd } = context;
  const file = options.value('file');
  const name = args.length === 1 ? withoutDevDirectory(args[0] ?? '') : null;
  if (name !== null && nameProblem(name) !== null) {
    throw new CommandError(EXIT.badUsage, [`Volume group name "${name}" is invalid.`]);
  }
  if (options.has('list')) return list(context, name, file);
  if (name === null) {
    throw new CommandError(EXIT.badUsage, ['Please specify a *single* volume group to restore.']);
  }
  const path = file === undefined ? join(backupDirectory(context), name) : resolve(cwd, file);
  const change = await changeContext(context);
  if (!(await confirmedWhileActive(context, change, name))) throw new CommandError(EXIT.failed, ['Restore aborted.']);
  const locks = { globalLock: 'write', vgs: [{ name, mode: 'write' }] } as const;
  return withChanges(change, locks, async (changes) => {
    try {
      if (!existsSync(path)) {
        const stat = `${path}: stat failed: No such file or directory`;
        const lines = [stat, "WARNING: couldn't read volume group metadata from file."];
        throw new Refusal([...lines, `Failed to read VG ${name} from ${path}`]);
      }
      const metadata = await readBackup(path);
      if (hasRepairedTime(metadata)) context.output.error(REPAIRED_TIME_WARNING);
      if (metadata.vg.name !== name) throw new Refusal(`'${path}' does not contain volume group '${name}'.`);
      await changes.apply(restoreVgPlan(changes.scan, metadata, options.has('force')));
      return EXIT.ok;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      throw new Refusal([...error.lines, 'Restore failed.'], error.exitCode, { cause: error });
    }
  });
}

const REPAIRED_TIME_WARNING = 'WARNING: Invalid creation_time found in metadata (repaired with next metadata update).';

/** Whether a time that no number can be was read as the one that stands for it. */
function hasRepairedTime({ header, vg }: MetadataText): boolean {
  return [header, ...vg.logicalVolumes].some(({ creationTime }) => creationTime === REPAIRED_CREATION_TIME);
}

async function readBackup(path: string): Promise<MetadataText> {
  try {
    return parseMetadataText(await readFile(path), { device: path, offset: 0 });
  } catch (error) {
    if (error instanceof FormatError) throw new Refusal(error.message, 5, { cause: error });
    if (!(error instanceof Error) || !('code' in error)) throw error;
    throw new Refusal(`Couldn't read volume group metadata from file ${path}: ${error.message}`, 5, { cause: error });
  }
}

async function list(context: CommandContext, name: string | null, file: string | undefined): Promise<ExitCode> {
  const { output, cwd } = context;
  if (file !== undefined) {
    const path = resolve(cwd, file);
    if (!existsSync(path)) throw new CommandError(EXIT.failed, [`Archive file ${file} not found.`]);
    await show(context, path);
    return EXIT.ok;
  }
  if (name === null) {
    throw new CommandError(EXIT.badUsage, ['Please specify a *single* volume group to restore.']);
  }
  const directory = archiveDirectory(context);
  const files = existsSync(directory) ? await archivesOf(directory, name) : [];
  if (files.length === 0) output.print(`No archives found in ${directory}.`);
  for (const archive of files.toReversed()) await show(context, join(directory, archive.name));
  const backup = join(backupDirectory(context), name);
  if (existsSync(backup)) await show(context, backup);
  return EXIT.ok;
}

/** Where changes keep what was before. */
function archiveDirectory(context: CommandContext): string {
  const { settings } = context;
  if (settings.has('backup/archive_dir')) return settings.string('backup/archive_dir');
  return join(dirname(backupDirectory(context)), 'archive');
}

async function show({ output }: CommandContext, path: string): Promise<void> {
  output.print(' ');
  output.print(`File:\t\t${path}`);
  try {
    const { vg, header } = await readBackup(path);
    const description = header.description === '' ? '<No description>' : plainText(header.description);
    output.print(`VG name:    \t${vg.name}`);
    output.print(`Description:\t${description}`);
    output.print(`Backup Time:\t${ctime(header.creationTime ?? 0)}\n`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    for (const line of [...error.lines, 'Unable to read archive file.']) output.error(line);
  }
}

/** As LVM2, asks before a VG is restored under its active LVs. */
async function confirmedWhileActive(
  { live, output }: CommandContext,
  change: ChangeContext,
  name: string,
): Promise<boolean> {
  const active = await withChanges(change, { vgs: [{ name, mode: 'read' }] }, async ({ scan }) => {
    const group = scan.volumeGroups.find(({ vg }) => vg.name === name);
    if (group === undefined) return [];
    // Without a daemon: what the kernel has attached, and waits for one.
    return live.present
      ? (await ActiveVolumes.of(live, group.vg)).names
      : [...(await attachedLvs(live, group.vg)).keys()];
  });
  if (active.length === 0) return true;
  for (const lv of active) output.print(`Volume group ${name} has active volume: ${lv}.`);
  output.error(`WARNING: Found ${active.length} active volume(s) in volume group "${name}".`);
  output.print('Restoring VG with active LVs, may cause mismatch with its metadata.');
  return change.prompt(
    `Do you really want to proceed with restore of volume group "${name}", while ${active.length} volume(s) are active? [y/n]: `,
  );
}
