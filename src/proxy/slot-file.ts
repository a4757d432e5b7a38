import type { Logger, Member } from '../index.js'
import { SlotFile } from '../relay/index.js'

/** Returns a function that opens the slots; it may be called again if it returns null. The slots are beside the control socket: all workers and versions know that path. */
export function slotFileOpener(member: Member, logger: Logger): (touched: () => void) => SlotFile | null {
  let hasFailed = false
  return touched => {
    const place = member.commonPlace
    if (place === null) return null
    const file = `${place.control}.slots`
    const failed = (error: unknown) =>
      logger.warn(
        { err: error, file },
        'each process applies the limit of connections to a server by itself, because their common file cannot be used',
      )
    try {
      const slots = SlotFile.open(file, place.service, { touched, failed })
      if (hasFailed) logger.info({ file }, 'the processes share the limits of connections to servers again')
      return slots
    } catch (error) {
      if (!hasFailed) failed(error)
      hasFailed = true
      return null
    }
  }
}
