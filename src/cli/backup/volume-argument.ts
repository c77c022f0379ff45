/**
 * Which volume backup and restore are told to work on: VG/LV, or an NBD URI of one that a daemon (or another NBD server) has anywhere.
 *
 * Invariant: a URI that is wrong is bad usage, with what is wrong about it; it is never taken for a path or a name.
 */
import { isNbdUri, type NbdPlace, parseNbdUri } from '../../daemon/client/nbd-uri.ts';
import type { CommandContext } from '../command.ts';
import { splitLvName } from '../lv/names.ts';
import { CommandError, EXIT } from '../messages.ts';
import type { VolumeName } from './volumes.ts';

/** Throws CommandError (3). */
export function volumeArgument(context: CommandContext, text: string): VolumeName | NbdPlace {
  if (isNbdUri(text)) {
    const place = parseNbdUri(text, context.cwd);
    if ('problem' in place) throw new CommandError(EXIT.badUsage, [`${text}: ${place.problem}.`]);
    return place;
  }
  const { vg, lv } = splitLvName(context, text);
  if (vg === null) throw new CommandError(EXIT.badUsage, [`"${text}" is no logical volume as VG/LV, and no NBD URI.`]);
  return { vgName: vg, lvName: lv };
}

/** "VG/LV" of what was meant; what a server calls it may differ. */
export function exportNameOf(volume: VolumeName | NbdPlace): string {
  return 'server' in volume ? volume.exportName : `${volume.vgName}/${volume.lvName}`;
}
