/** lvrename: `lvrename VG OLD NEW` or `lvrename VG/OLD NEW`. */
import { changeVolumeGroup } from '../../lvm/command.ts';
import { reservedName } from '../../lvm/edit/lv-names.ts';
import { renameLv, type LvRenameRequest } from '../../lvm/edit/lv-rename.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { noted } from '../lv/edit.ts';
import { defaultVg, splitPath, vgNameOf } from '../lv/names.ts';
import * as option from '../lv/options.ts';
import { badUsage, unmatched } from '../lv/values.ts';
import { EXIT, noSuchSyntax } from '../messages.ts';
import { AUTOBACKUP_OPTION } from '../option-values.ts';

const MAX_NAME = 127;
/** The hyphen between VG and LV in a device-mapper name, and room for what LVM2 puts behind it. */
const NAME_OVERHEAD = 2;

export const command: Command = {
  summary: 'Rename a logical volume',
  argumentsUsage: 'VG LV LV_new | LV LV_new',
  options: [AUTOBACKUP_OPTION, ...option.SURROUNDINGS],
  async run(context) {
    const { vgName, ...request } = parse(context);
    const change = await changeContext(context);
    await changeVolumeGroup(change, { vgName }, (group) => noted(context, (notes) => renameLv(group, request, notes)));
    return EXIT.ok;
  },
};

function parse(context: CommandContext): LvRenameRequest & { readonly vgName: string } {
  const [vgName, oldName, newName] = names(context);
  const wasHistorical = oldName.startsWith('-');
  if (newName.startsWith('-') && !wasHistorical) {
    throw badUsage('Old name references live LV while new name is for historical LV.');
  }
  const from = wasHistorical ? oldName.slice(1) : oldName;
  const to = wasHistorical && newName.startsWith('-') ? newName.slice(1) : newName;
  const most = MAX_NAME - vgName.length - NAME_OVERHEAD;
  if (to.length > most) throw badUsage(`New logical volume name "${to}" may not exceed ${most} characters.`);
  if (to === '') throw badUsage('New logical volume name may not be blank');
  const reserved = reservedName(to);
  if (reserved !== null) throw badUsage(reserved);
  if (!isValidName(to)) throw badUsage(`New logical volume name "${to}" is invalid`);
  if (from === to) throw badUsage('Old and new logical volume names must differ');
  return { vgName, from, to, historical: wasHistorical };
}

function names(context: CommandContext): readonly [string, string, string] {
  const { args } = context;
  if (args.length < 2) throw noSuchSyntax(context.name);
  if (args.length > 3) throw unmatched(`Command does not accept argument: ${args[3]}.`);
  const [oldText = '', newText = ''] = args.slice(-2);
  const old = splitPath(context, oldText);
  const given = args.length === 3 ? vgNameOf(args[0] ?? '') : (old.vg ?? defaultVg(context));
  if (given === null) {
    throw badUsage(`Path required for Logical Volume "${oldText}".`, 'Please provide a valid volume group name');
  }
  if (old.vg !== null && old.vg !== given) {
    throw badUsage(`Please use a single volume group name ("${given}" or "${old.vg}")`);
  }
  if (!isValidName(given)) throw badUsage('Please provide a valid volume group name');
  const to = splitPath(context, newText);
  if (to.vg !== null && to.vg !== given) {
    throw badUsage(`Logical volume names must have the same volume group ("${given}" or "${to.vg}")`);
  }
  return [given, old.lv, to.lv];
}
