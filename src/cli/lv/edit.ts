/**
 * Running an edit of an LV: with its notes printed whatever comes of it, on the VG that was named.
 *
 * Invariant: what an edit noted before it refused is printed before the refusal.
 */
import { DEFAULT_ALLOCATION, type AllocationSettings } from '../../lvm/allocate/request.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { Notes } from '../../lvm/edit/lv-notes.ts';
import type { CommandContext } from '../command.ts';
import { displaySize } from './values.ts';

/** What lvm.conf's section allocation says. */
export function allocationSettings(_context: CommandContext): AllocationSettings {
  return DEFAULT_ALLOCATION;
}

/** Calls `edit` with a place for its notes. */
export function noted<Result>(context: CommandContext, edit: (notes: Notes) => Result): Result {
  const notes = new Notes(displaySize);
  try {
    return edit(notes);
  } catch (error) {
    if (error instanceof Refusal) {
      for (const { stream, when, text } of notes.messages) {
        if (when === 'before' && stream === 'stdout') context.output.print(text);
        else if (when === 'before') context.output.error(text);
      }
    }
    throw error;
  }
}
