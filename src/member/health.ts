/** What the application says of itself: true, or false, or a sentence that says why it is not well. */
export type Health = () => boolean | string

const MOST_CHARACTERS = 500

export interface Wellness {
  readonly healthy: boolean
  /** Why not, where it says so. */
  readonly unwell?: string
}

/** Asks it. One that throws is not well. */
export function wellness(health: Health): Wellness {
  let said: boolean | string
  try {
    said = health()
  } catch (error) {
    said = `its health hook threw: ${error instanceof Error ? error.message : String(error)}`
  }
  if (typeof said !== 'string') return { healthy: said }
  return { healthy: false, ...(said !== '' && { unwell: said.slice(0, MOST_CHARACTERS) }) }
}
