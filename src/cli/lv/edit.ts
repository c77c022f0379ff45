/**
 * Running an edit of an LV: with its notes printed whatever comes of it, on the VG that was named.
 *
 * Invariant: what an edit noted before it refused is printed before the refusal.
 */
import type { AllocationSettings } from '../../lvm/allocate/request.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import type { PlanMessage } from '../../lvm/edit/plan.ts';
import { Notes } from '../../lvm/edit/lv-notes.ts';
import type { CommandContext } from '../command.ts';
import { sizeText } from '../option-values.ts';

/** What lvm.conf's section allocation says. */
export function allocationSettings({ settings }: CommandContext): AllocationSettings {
  const tags = settings.strings('allocation/cling_tag_list');
  return { maximiseCling: settings.bool('allocation/maximise_cling'), clingTagList: tags };
}

/** Prints what a plan that is not carried out would have had printed. */
export function say({ output }: CommandContext, messages: readonly PlanMessage[]): void {
  for (const { stream, text } of messages) {
    if (stream === 'stdout') output.print(text);
    else output.error(text);
  }
}

/** Calls `edit` with a place for its notes. */
export function noted<Result>(context: CommandContext, edit: (notes: Notes) => Result): Result {
  const notes = new Notes(sizeText);
  try {
    return edit(notes);
  } catch (error) {
    if (error instanceof Refusal) {
      say(
        context,
        notes.messages.filter(({ when }) => when === 'before'),
      );
    }
    throw error;
  }
}
