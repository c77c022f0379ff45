/**
 * backup: writes what a logical volume holds, or what of it changed since a snapshot, into an image (docs/backup-format.md).
 *
 *     backup VG/LV FILE                        everything
 *     backup VG/LV --since SNAPSHOT FILE       what differs from a snapshot of the same origin
 *     backup nbds://HOST/VG/LV?tls-certificates=DIR … FILE     the same of a daemon elsewhere
 *
 * Invariants
 *  - FILE is whole or not there. `-` is standard output, and nothing else is printed there.
 *  - The volume is only read. What is consistent is a snapshot: of an origin in use, what is written meanwhile may be in the image or not.
 */
import { resolve } from 'node:path';
import { streamSink, withNewFile } from '../backup/image-sink.ts';
import { interruptibly } from '../backup/interrupt.ts';
import { exportNameOf, volumeArgument } from '../backup/volume-argument.ts';
import { type VolumeName, withVolumes } from '../backup/volumes.ts';
import { type ImageSink, writeImage, type Written } from '../backup/write-image.ts';
import type { NbdPlace } from '../../daemon/client/nbd-uri.ts';
import type { Command, CommandContext } from '../command.ts';
import { splitLvName } from '../lv/names.ts';
import { CommandError, EXIT } from '../messages.ts';
import { VERSION } from '../version.ts';

const MIB = 2 ** 20;

export const command: Command = {
  summary: 'Back up a logical volume, or what changed since a snapshot',
  argumentsUsage: 'VG/LV|NBD-URI FILE',
  options: [
    {
      long: 'since',
      argument: 'Snapshot',
      description: 'Write only what differs from this snapshot of the same origin: LV, or VG/LV.',
    },
    { long: 'force', short: 'f', countable: true, description: 'Replace FILE if it exists.' },
  ],
  async run(context) {
    const { volume, baseName, file } = argumentsOf(context);
    let name = exportNameOf(volume);
    const written = await interruptibly(context, (signal) =>
      withVolumes(context, { volume, baseName, writable: false, alone: false, signal }, (set) => {
        ({ name } = set.volume);
        const label = `Backing up ${name}`;
        const { progress } = context.terminal;
        const write = async (sink: ImageSink): Promise<Written> => {
          try {
            return await writeImage(set, sink, {
              createdAt: context.now,
              generator: `Orion LVM ${VERSION}`,
              signal,
              onProgress: (done, total) => progress?.update(label, done, total, 'bytes'),
            });
          } finally {
            progress?.end();
          }
        };
        if (context.options.has('test')) return Promise.resolve(null);
        if (file === '-') return write(streamSink(process.stdout));
        return withNewFile(resolve(context.cwd, file), { replace: context.options.has('force') }, write);
      }),
    );
    if (file !== '-' && written !== null) context.output.print(summaryOf(name, baseName, file, written));
    return EXIT.ok;
  },
};

function argumentsOf(context: CommandContext): {
  readonly volume: VolumeName | NbdPlace;
  readonly baseName: string | null;
  readonly file: string;
} {
  const [argument, file, ...rest] = context.args;
  if (argument === undefined || file === undefined || rest.length > 0) {
    throw new CommandError(EXIT.badUsage, ['Please provide a logical volume as VG/LV or NBD URI, and a file.']);
  }
  const volume = volumeArgument(context, argument);
  const since = context.options.value('since');
  if (since === undefined) return { volume, baseName: null, file };
  const base = splitLvName(context, since);
  const name = exportNameOf(volume);
  if (!name.includes('/')) {
    throw new CommandError(EXIT.badUsage, ['With --since, the NBD URI must name the logical volume as VG/LV.']);
  }
  if (base.vg !== null && base.vg !== name.slice(0, name.lastIndexOf('/'))) {
    throw new CommandError(EXIT.badUsage, ['The snapshot must be in the same VG.']);
  }
  if (base.lv === name.slice(name.lastIndexOf('/') + 1)) {
    throw new CommandError(EXIT.badUsage, ['A logical volume does not differ from itself.']);
  }
  return { volume, baseName: base.lv, file };
}

function summaryOf(name: string, baseName: string | null, file: string, { dataBytes, zeroBytes }: Written): string {
  const what = baseName === null ? name : `Changes of ${name} since ${baseName}`;
  return `${what} backed up to ${file}: ${mebibytes(dataBytes)} MiB of data, ${mebibytes(zeroBytes)} MiB of zeroes.`;
}

function mebibytes(bytes: number): string {
  return (bytes / MIB).toFixed(2);
}
