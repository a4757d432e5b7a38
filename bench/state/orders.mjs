// @ts-check
/** @typedef {Record<string, (order: any) => Promise<object>>} Orders */

/**
 * Does what the process that has forked this one sends, and answers with what came of it; ends with that one.
 * @param {Orders} orders
 */
export function obey(orders) {
  process.on('message', async (/** @type {{ order: string }} */ message) => {
    try {
      process.send?.({ ok: await orders[message.order]?.(message) })
    } catch (error) {
      process.send?.({ error: error instanceof Error ? error.stack : String(error) })
    }
  })
  process.on('disconnect', () => process.exit())
  process.send?.({ ok: 'started' })
}
