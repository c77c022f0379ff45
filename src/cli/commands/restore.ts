/**
 * restore: puts backup images back onto a logical volume: a full one, and incremental ones after it in order; or only incremental ones,
 * onto a volume that holds what the first of them was taken against.
 *
 * Invariants
 *  - While it asks, nobody is kept from the volume, and a signal ends it at once; what was asked about must still be so afterwards.
 *  - Nothing is written before every image has been read and checked, they follow each other, and what each was taken against is there.
 *    What is written was compared with its sum right before.
 *  - It is done when everything is durable. Interrupted, or when a device fails, the volume is partly written, and that is said.
 */
import { resolve } from 'node:path';
import { interruptibly } from '../backup/interrupt.ts';
import { ImageChain, ImageFile, type PlacedRecord } from '../backup/read-image.ts';
import { exportNameOf, volumeArgument } from '../backup/volume-argument.ts';
import { servedNow, type VolumeName, withVolumes, type WorkVolume } from '../backup/volumes.ts';
import { RecordKind } from '../../ondisk/backup-image.ts';
import type { NbdPlace } from '../../daemon/client/nbd-uri.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';
import { ask } from '../prompt.ts';

/** Records being written. */
const DEPTH = 8;
const MAX_ZERO_BYTES = 2 ** 30;

export const command: Command = {
  summary: 'Restore a logical volume from backups',
  argumentsUsage: 'FILE ... VG/LV|NBD-URI',
  options: [
    {
      long: 'force',
      short: 'f',
      countable: true,
      description:
        'Restore onto a volume that clients have open, and incremental images onto what they were not taken against.',
    },
    { long: 'verify', description: 'Only check the files, all arguments being such: nothing is written.' },
  ],
  async run(context) {
    const verifyOnly = context.options.has('verify');
    const [last, ...files] = verifyOnly ? ['', ...context.args] : [context.args.at(-1), ...context.args.slice(0, -1)];
    if (last === undefined || files.length === 0) {
      const what = verifyOnly ? 'files' : 'files, and a logical volume as VG/LV or NBD URI';
      throw new CommandError(EXIT.badUsage, [`Please provide ${what}.`]);
    }
    const target = verifyOnly ? null : volumeArgument(context, last);
    const chain = await interruptibly(context, () => openChain(context, files));
    try {
      await interruptibly(context, async (signal) => {
        await checkChain(context, chain, signal);
        if (target === null) await checkBases(context, chain, null, signal);
      });
      if (target !== null) await restoreTo(context, chain, target);
    } finally {
      context.terminal.progress?.end();
      await chain.close();
    }
    for (const { path } of verifyOnly ? chain.images : []) context.output.print(`${path} is a sound backup.`);
    return EXIT.ok;
  },
};

async function openChain(context: CommandContext, files: readonly string[]): Promise<ImageChain> {
  const images: ImageFile[] = [];
  try {
    for (const file of files) images.push(await ImageFile.open(resolve(context.cwd, file)));
  } catch (error) {
    for (const image of images) await image.close();
    throw error;
  }
  return new ImageChain(images);
}

async function checkChain(context: CommandContext, chain: ImageChain, signal: AbortSignal): Promise<void> {
  if (!context.options.has('force')) chain.checkOrder();
  await chain.verify((done, total) => {
    signal.throwIfAborted();
    context.terminal.progress?.update('Verifying', done, total, 'bytes');
  });
  signal.throwIfAborted();
}

async function checkBases(
  context: CommandContext,
  chain: ImageChain,
  volume: WorkVolume | null,
  signal: AbortSignal,
): Promise<void> {
  if (context.options.has('force')) return;
  await chain.checkBases(volume, (done, total) => {
    signal.throwIfAborted();
    context.terminal.progress?.update('Comparing', done, total, 'records');
  });
  signal.throwIfAborted();
}

async function restoreTo(context: CommandContext, chain: ImageChain, target: VolumeName | NbdPlace): Promise<void> {
  const { options, output, terminal } = context;
  const seen = await servedNow(context, target);
  if (seen !== null) refuseInUse(context, seen);
  if (!options.has('test')) await confirm(context, target);
  await interruptibly(context, (signal) => {
    const wanted = { volume: target, baseName: null, writable: true, alone: !options.has('force'), signal };
    return withVolumes(context, wanted, async ({ volume }, stillAlone) => {
      if (seen !== null && volume.id !== seen.id) refuse(volume, 'another one has this name now');
      refuseUnfit(context, chain, volume);
      await checkBases(context, chain, volume, signal);
      terminal.progress?.end();
      if (options.has('test')) return;
      const mayGoOn = (): void => {
        signal.throwIfAborted();
        stillAlone();
      };
      mayGoOn();
      const shown = volume.place === undefined ? volume.name : `${volume.name} at ${volume.place}`;
      try {
        await write(context, chain, volume, mayGoOn);
      } catch (error) {
        output.error(`WARNING: Logical volume ${shown} is restored only in part.`);
        throw error;
      }
      output.print(`Logical volume ${shown} restored.`);
    });
  });
}

/** Throws CommandError when the answer is no. */
async function confirm({ options, output, terminal }: CommandContext, target: VolumeName | NbdPlace): Promise<void> {
  terminal.progress?.end();
  const name = exportNameOf(target) || '(the default export)';
  const shown = 'server' in target ? `${name} at ${target.server}` : name;
  const question = `Do you really want to overwrite logical volume ${shown}? [y/n]: `;
  const silent = options.count('quiet') > 1;
  if (!(await ask(question, { yes: options.has('yes'), silent, output, ...terminal }))) {
    throw new CommandError(EXIT.failed, [`Logical volume ${shown} not restored.`]);
  }
}

function refuseUnfit(context: CommandContext, chain: ImageChain, volume: WorkVolume): void {
  const { sizeBytes, readOnly } = volume;
  if (readOnly) refuse(volume, 'it is read-only');
  if (sizeBytes < chain.sizeBytes) refuse(volume, `it has ${sizeBytes} bytes, and the backup ${chain.sizeBytes}`);
  refuseInUse(context, volume);
}

function refuseInUse({ options }: CommandContext, volume: { readonly name: string; readonly clients?: number }): void {
  const { clients = 0 } = volume;
  if (clients > 0 && !options.has('force'))
    refuse(volume, `${clients} ${clients === 1 ? 'client has' : 'clients have'} it open`);
}

function refuse({ name }: { readonly name: string }, reason: string): never {
  throw new CommandError(EXIT.failed, [`Cannot restore logical volume ${name}: ${reason}.`]);
}

/** `mayGoOn` throws when nothing more is to be written, or what was written does not count. */
async function write(
  { terminal }: CommandContext,
  chain: ImageChain,
  volume: WorkVolume,
  mayGoOn: () => void,
): Promise<void> {
  const label = `Restoring ${volume.name}`;
  const all = chain.images.flatMap(({ records }) => records);
  const total = all.reduce((sum, { length }) => sum + length, 0);
  let done = 0;
  for (const image of chain.images) {
    // What a later image says may be about the same bytes.
    await inParallel(image.records, async (record) => {
      mayGoOn();
      await writeRecord(image, record, volume);
      done += record.length;
      terminal.progress?.update(label, done, total, 'bytes');
    });
  }
  await volume.flush();
  mayGoOn();
  terminal.progress?.end();
}

async function writeRecord(image: ImageFile, record: PlacedRecord, volume: WorkVolume): Promise<void> {
  const { kind, offset, length } = record;
  if (kind === RecordKind.data) {
    await volume.write(offset, await image.readWhole(record));
    return;
  }
  for (let at = 0; at < length; at += MAX_ZERO_BYTES) {
    await volume.writeZeroes(offset + at, Math.min(MAX_ZERO_BYTES, length - at));
  }
}

async function inParallel<Item>(items: readonly Item[], work: (item: Item) => Promise<void>): Promise<void> {
  const queue = items.values();
  let failed = false;
  const worker = async (): Promise<void> => {
    // One iterator for all: each takes the next.
    for (const item of queue) {
      if (failed) return;
      try {
        await work(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  for (const outcome of await Promise.allSettled(Array.from({ length: DEPTH }, worker))) {
    if (outcome.status === 'rejected') throw outcome.reason;
  }
}
