/**
 * vgcfgbackup: writes each volume group's metadata to its backup file, or to the file that is named (%s: the VG's name).
 *
 * Source: vgcfgbackup(8); messages and text compared with LVM2 2.03.16, whose vgcfgrestore reads the file.
 */
import { stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { writeBackup } from '../../lvm/archive.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import { canonical } from '../../lvm/edit/canonical.ts';
import { emptyPlan } from '../../lvm/edit/plan.ts';
import { withPvFacts } from '../../lvm/edit/pv-facts.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import type { MetadataText } from '../../ondisk/metadata.ts';
import { backupDirectory, changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import { REPORTFORMAT_OPTION } from '../option-values.ts';
import { eachVgArgument } from '../vg-targets.ts';

/** The VG as LVM2 would write it now: PVs where they are, missing ones flagged. */
function metadataNow(group: VolumeGroup, change: ChangeContext): MetadataText {
  const { vg, metadata } = group;
  const { systemId } = change.host;
  const header = {
    contents: metadata.header.contents,
    version: metadata.header.version,
    description: change.writer.commandLine,
    creationHost: change.writer.hostName,
    ...(systemId === null ? {} : { creationHostSystemId: systemId }),
    creationTime: change.now(),
  };
  return { header, vg: canonical(withPvFacts(vg, emptyPlan(group, vg))), extra: metadata.extra };
}

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, output, cwd } = context;
  const file = options.value('file');
  const change = await changeContext(context);
  const request = {
    mode: 'read',
    handlesMissing: true,
    handlesUnknownSegments: true,
    allowExported: true,
    allowForeign: options.has('foreign'),
  } as const;
  const written = new Set<string>();
  await eachVgArgument(context, change, request, async (group) => {
    const { name } = group.vg;
    if (file === undefined && group.partial) {
      throw new CommandError(EXIT.failed, ['No backup taken: specify filename with -f to backup with missing PVs.']);
    }
    const path = file === undefined ? join(backupDirectory(context), name) : resolve(cwd, file.replace('%s', name));
    if (written.has(path)) {
      throw new CommandError(EXIT.failed, [
        'VGs must be backed up into different files. Use %s in filename for VG name.',
      ]);
    }
    written.add(path);
    const print = { generator: change.writer.generator, uname: change.writer.uname, time: change.now() };
    try {
      // Only the backup directory is made if it isn't there; a mistyped name is no reason to make others.
      if (file !== undefined) await stat(dirname(path));
      const metadata = metadataNow(group, change);
      await writeBackup(path, metadata, { description: change.writer.commandLine, print });
    } catch (error) {
      if (!(error instanceof Error) || !('code' in error)) throw error;
      throw new CommandError(EXIT.failed, [`${path}: ${error.message}`, `Backup of volume group ${name} failed.`]);
    }
    output.print(`Volume group "${name}" successfully backed up.`);
  });
  return EXIT.ok;
}

export const command: Command = {
  summary: 'Backup volume group configuration(s)',
  argumentsUsage: '[ VG ... ]',
  options: [
    {
      long: 'file',
      short: 'f',
      argument: 'String',
      description:
        'The file to write instead of the one in the backup directory; %s in it stands for the name of the VG.',
    },
    { long: 'foreign', description: 'Also back up foreign volume groups, those of another system ID.' },
    REPORTFORMAT_OPTION,
  ],
  run,
};
