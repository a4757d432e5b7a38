import { resolve } from 'node:path'
import { repairStateFile } from '../state/file/repair.js'
import { jsonText } from './json-text.js'

/** `fd-broker state repair`. */
export async function repairState({ file, json }: { file: string; json?: true }): Promise<void> {
  const path = resolve(file)
  const { damage, entries, kept } = await repairStateFile(path)
  const { cause, aside = null } = damage ?? {}
  if (json) {
    const synced = cause?.details.synced ?? null
    process.stdout.write(
      jsonText({ damaged: damage !== null, entries, sequence: kept, synced, aside, why: cause?.message }),
    )
    return
  }
  const lines =
    cause === undefined
      ? [`${path} is not damaged: ${entries} entries; nothing was changed`]
      : [
          `${path} was damaged: ${cause.message}`,
          entries > 0
            ? `it holds now what stood before the damage: ${entries} entries, up to sequence ${kept}`
            : 'nothing stood before the damage: the service begins without a state',
          `the damaged file is ${aside}`,
        ]
  process.stdout.write(`${lines.join('\n')}\n`)
}
