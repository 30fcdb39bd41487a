"""The aiohttp shell: one request from permit to answer."""
