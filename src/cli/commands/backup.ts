/**
 * backup: writes what a logical volume holds, or what of it changed since a snapshot, into an image (docs/backup-format.md).
 *
 *     backup VG/LV FILE                        everything
 *     backup VG/LV --since SNAPSHOT FILE       what differs from a snapshot of the same origin
 *
 * Invariants
 *  - FILE is whole or not there. `-` is standard output, and nothing else is printed there.
 *  - The volume is only read. What is consistent is a snapshot: of an origin in use, what is written meanwhile may be in the image or not.
 */
import { resolve } from 'node:path';
import { streamSink, withNewFile } from '../backup/image-sink.ts';
import { interruptibly } from '../backup/interrupt.ts';
import { withVolumes } from '../backup/volumes.ts';
import { type ImageSink, writeImage, type Written } from '../backup/write-image.ts';
import type { Command, CommandContext } from '../command.ts';
import { type LvName, splitLvName } from '../lv/names.ts';
import { CommandError, EXIT } from '../messages.ts';
import { VERSION } from '../version.ts';

const MIB = 2 ** 20;

export const command: Command = {
  summary: 'Back up a logical volume, or what changed since a snapshot',
  argumentsUsage: 'VG/LV FILE',
  options: [
    {
      long: 'since',
      argument: 'Snapshot',
      description: 'Write only what differs from this snapshot of the same origin: LV, or VG/LV.',
    },
    { long: 'force', short: 'f', countable: true, description: 'Replace FILE if it exists.' },
  ],
  async run(context) {
    const { name, baseName, file } = argumentsOf(context);
    const wanted = { vgName: name.vg ?? '', lvName: name.lv, baseName, writable: false };
    const written = await interruptibly(context, (signal) =>
      withVolumes(context, wanted, (set) => {
        const label = `Backing up ${set.volume.name}`;
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
  readonly name: LvName;
  readonly baseName: string | null;
  readonly file: string;
} {
  const [volume, file, ...rest] = context.args;
  if (volume === undefined || file === undefined || rest.length > 0) {
    throw new CommandError(EXIT.badUsage, ['Please provide a logical volume as VG/LV, and a file.']);
  }
  const name = splitLvName(context, volume);
  if (name.vg === null) throw new CommandError(EXIT.badUsage, [`"${volume}" is no logical volume as VG/LV.`]);
  const since = context.options.value('since');
  if (since === undefined) return { name, baseName: null, file };
  const base = splitLvName(context, since);
  if (base.vg !== null && base.vg !== name.vg) {
    throw new CommandError(EXIT.badUsage, ['The snapshot must be in the same VG.']);
  }
  if (base.lv === name.lv) throw new CommandError(EXIT.badUsage, ['A logical volume does not differ from itself.']);
  return { name, baseName: base.lv, file };
}

function summaryOf(
  { vg, lv }: LvName,
  baseName: string | null,
  file: string,
  { dataBytes, zeroBytes }: Written,
): string {
  const what = baseName === null ? `${vg}/${lv}` : `Changes of ${vg}/${lv} since ${baseName}`;
  return `${what} backed up to ${file}: ${mebibytes(dataBytes)} MiB of data, ${mebibytes(zeroBytes)} MiB of zeroes.`;
}

function mebibytes(bytes: number): string {
  return (bytes / MIB).toFixed(2);
}
