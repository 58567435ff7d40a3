"""The sender in patched processes: is it native, and does the event loop not notice it?"""
