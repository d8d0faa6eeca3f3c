"""Are bridge tokens attended to, and do they cause the effect?"""
