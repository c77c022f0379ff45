/** How settings name volumes: "VG", "VG/LV" or "*" for all of them. */
import { z } from 'zod';

export const volumeName: z.ZodType<string> = z
  .string()
  .regex(/^(\*|[A-Za-z0-9_+.][A-Za-z0-9_+.-]*(\/[A-Za-z0-9_+.][A-Za-z0-9_+.-]*)?)$/);

/** Whether the export of that name, "VG/LV", is meant. */
export function namesVolume(volume: string, name: string): boolean {
  return volume === '*' || volume === name || name.startsWith(`${volume}/`);
}
