/**
 * The one place that judges what a client asks for: flags, permission, range and size of each command.
 *
 * Invariants
 *  - What passes here lies inside the volume, in bytes below 2^53; everything below asserts it.
 *  - A range is compared without adding to the offset, so that an offset near 2^64 can't wrap.
 *  - Past the end: ENOSPC for what would write data, EINVAL for the rest. Length 0 is nothing to do, and no error.
 */
import { CommandFlag, CommandType, NbdErrno } from './constants.ts';
import { RequestFlag } from '../dm/io.ts';
import type { Command } from './command.ts';
import type { NbdExport } from './exports.ts';
import { PLAIN_TERMS, type Terms } from './features.ts';
import { isFilterSize } from './status-lists.ts';

/** FUA is taken on every command, as it must be when offered; where there is nothing to make durable it means nothing. */
function allowedFlags(type: number, terms: Terms): number {
  if (type === CommandType.writeZeroes) return CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero;
  if (type === CommandType.read && terms.structuredReplies) return CommandFlag.fua | CommandFlag.df;
  const payload = terms.extendedHeaders ? CommandFlag.payloadLength : 0;
  if (type === CommandType.write) return CommandFlag.fua | payload;
  if (type === CommandType.blockStatus && terms.contexts.length > 0)
    return CommandFlag.fua | CommandFlag.reqOne | payload;
  return CommandFlag.fua;
}

/** Whether it has the payload that names contexts, which must be here before its length is known. */
export function hasFilter({ type, flags }: Command, terms: Terms): boolean {
  return terms.extendedHeaders && type === CommandType.blockStatus && (flags & CommandFlag.payloadLength) !== 0;
}

function isAligned({ offset, length }: Command, { minimumBlockSize }: Terms): boolean {
  return minimumBlockSize === 1 || (offset % minimumBlockSize === 0 && length % minimumBlockSize === 0);
}

function isInside({ offset, length }: Command, { volume }: NbdExport): boolean {
  const { sizeBytes } = volume.limits;
  return length <= sizeBytes && offset <= sizeBytes - length;
}

/**
 * 0, or the error that the command is answered with. The payload of a refused one still has to be read. Of a BLOCK_STATUS that names its
 * contexts only the size of its payload; the rest is `judgeStatus`'s.
 */
export function judge(command: Command, export_: NbdExport, terms: Terms = PLAIN_TERMS): NbdErrno {
  const { type, flags, length } = command;
  if ((flags & ~allowedFlags(type, terms)) !== 0) return NbdErrno.einval;
  if (type === CommandType.flush) {
    // Offset and length must be zero; a flush that has them is still a flush, and refusing it would endanger data.
    return NbdErrno.ok;
  }
  if (type === CommandType.blockStatus && hasFilter(command, terms)) {
    return isFilterSize(command.payload, terms.contexts.length) ? NbdErrno.ok : NbdErrno.einval;
  }
  if (!isAligned(command, terms)) return NbdErrno.einval;
  const inside = isInside(command, export_);
  switch (type) {
    case CommandType.read:
      return inside && length <= terms.maximumBlockSize ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.write:
      if (export_.readOnly) return NbdErrno.eperm;
      if (length > terms.maximumBlockSize) return NbdErrno.einval;
      return inside ? NbdErrno.ok : NbdErrno.enospc;
    case CommandType.writeZeroes:
      if (export_.readOnly) return NbdErrno.eperm;
      if (!inside) return NbdErrno.enospc;
      return (flags & CommandFlag.fastZero) !== 0 && !zeroesFast(command, export_) ? NbdErrno.enotsup : NbdErrno.ok;
    case CommandType.trim:
      if (export_.readOnly) return NbdErrno.eperm;
      return inside && (export_.canTrim || terms.trims) ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.cache:
      return inside ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.blockStatus:
      return judgeStatus(command, export_, terms);
    default:
      return NbdErrno.einval;
  }
}

/** Whether it is sure beforehand that zeroing is faster than writing. */
function zeroesFast({ offset, length, flags }: Command, { volume }: NbdExport): boolean {
  const noUnmap = (flags & CommandFlag.noHole) === 0 ? 0 : RequestFlag.noUnmap;
  return length === 0 || (volume.zeroesFast?.(offset, length, noUnmap) ?? false);
}

/** The same of a BLOCK_STATUS whose length is known. */
export function judgeStatus(command: Command, export_: NbdExport, terms: Terms): NbdErrno {
  const good = command.length > 0 && isInside(command, export_) && isAligned(command, terms);
  return good && terms.contexts.length > 0 ? NbdErrno.ok : NbdErrno.einval;
}

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries({
    READ: CommandType.read,
    WRITE: CommandType.write,
    FLUSH: CommandType.flush,
    TRIM: CommandType.trim,
    CACHE: CommandType.cache,
    WRITE_ZEROES: CommandType.writeZeroes,
    BLOCK_STATUS: CommandType.blockStatus,
  }).map(([name, type]) => [type, name]),
);

/** Why `judge` refused a command, for people. */
export function refusalText(command: Command, export_: NbdExport, terms: Terms): string {
  const { type, flags, offset, length } = command;
  const name = NAMES.get(type);
  if (name === undefined) return `command ${type} is not known to this server`;
  if (type === CommandType.blockStatus && terms.contexts.length === 0)
    return `${name}: no meta context was selected for this export`;
  const unknown = flags & ~allowedFlags(type, terms);
  if (unknown !== 0) return `${name}: flags 0x${unknown.toString(16)} are not known, or were not agreed on`;
  if (command.refusal === NbdErrno.enotsup) return `${name}: zeroing is not known to be faster than writing here`;
  if (command.refusal === NbdErrno.eperm) return `${name}: the export is read-only`;
  if (type <= CommandType.write && length > terms.maximumBlockSize) {
    return `${name}: ${length} bytes, at most ${terms.maximumBlockSize} are allowed`;
  }
  if (hasFilter(command, terms) && !isFilterSize(command.payload, terms.contexts.length)) {
    return `${name}: a payload of ${command.payload} bytes names no selection of the ${terms.contexts.length} contexts`;
  }
  if (type === CommandType.blockStatus && length === 0) return `${name} of no bytes`;
  if (!isInside(command, export_)) {
    return `${name}: ${length} bytes at offset ${offset} are not inside the ${export_.volume.limits.sizeBytes} bytes of the export`;
  }
  if (!isAligned(command, terms)) {
    return `${name}: ${length} bytes at offset ${offset} are not whole blocks of ${terms.minimumBlockSize} bytes`;
  }
  return hasFilter(command, terms)
    ? `${name}: the payload names a context twice, or one that was not selected`
    : `${name} is not supported by this export`;
}
