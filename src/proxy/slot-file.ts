import type { Logger, Member } from '../index.js'
import { SlotFile } from '../relay/index.js'

/** The slots are beside the control socket: all workers and versions know that path. */
export function openSlotFile(member: Member, logger: Logger, touched: () => void): SlotFile | null {
  const place = member.commonPlace
  if (place === null) return null
  const file = `${place.control}.slots`
  const failed = (error: unknown) =>
    logger.warn(
      { err: error, file },
      'each process applies the limit of connections to a server by itself, because their common file cannot be used',
    )
  try {
    return SlotFile.open(file, place.service, { touched, failed })
  } catch (error) {
    failed(error)
    return null
  }
}
